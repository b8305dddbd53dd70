//! What a run leaves on disk: the model, `metrics.csv`, the plot, and the report.

use crate::options::Options;
use crate::plot;
use crate::progress::say;
use crate::report::{Report, write};
use crate::training::{Epoch, Outcome};
use burn::module::Module;
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

const MODEL: &str = "model.bpk";
const METRICS: &str = "metrics.csv";
const PLOT: &str = "training.svg";

/// What the results take on disk, and a little more.
const RESULTS: usize = 6 << 20;

type Failure = Box<dyn Error + Send + Sync>;

/// Finds out before training whether its results can be written.
pub(crate) fn prepare(options: &Options) -> Result<(), Failure> {
    let wrong = |path: &Path, error: &dyn std::fmt::Display| {
        format!(
            "can't write to {}: {error}; choose another folder",
            path.display()
        )
    };
    for folder in [Some(options.output.as_path()), report_folder(options)]
        .into_iter()
        .flatten()
    {
        std::fs::create_dir_all(folder).map_err(|error| wrong(folder, &error))?;
        // A disk that is full takes a new file still, but nothing in it.
        tempfile::tempfile_in(folder)
            .and_then(|mut file| {
                file.write_all(&vec![1; RESULTS])
                    .and_then(|()| file.sync_all())
            })
            .map_err(|error| wrong(folder, &error))?;
    }
    for name in [MODEL, METRICS, PLOT] {
        let file = options.output.join(name);
        if file.is_dir() {
            return Err(wrong(&file, &"it is a folder, and a file is due").into());
        }
    }
    if let Some(report) = options.report.as_deref().filter(|report| report.is_dir()) {
        return Err(wrong(report, &"it is a folder, and --report names a file").into());
    }
    Ok(())
}

fn report_folder(options: &Options) -> Option<&Path> {
    let folder = options.report.as_deref()?.parent()?;
    Some(if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    })
}

/// Writes everything, says where, and fails if the replicas were not identical.
pub(crate) fn save(options: &Options, backend: &str, outcome: &Outcome) -> Result<(), Failure> {
    let last = outcome.epochs.last().copied().unwrap_or_default();
    let report = Report {
        backend,
        world_size: outcome.world_size,
        epochs: outcome.epochs.len(),
        global_batch_size: options.batch_size as usize * outcome.world_size,
        learning_rate: options.lr,
        seed: options.seed,
        train_loss: last.loss,
        train_accuracy: last.accuracy,
        test_accuracy: outcome.test_accuracy,
        train_seconds: outcome.train_seconds,
        samples_per_second: outcome.samples_per_second,
        sync_wait_fraction: outcome.sync_wait_fraction,
        parameters_sha256: &outcome.parameters_sha256,
        replicas_identical: outcome.replicas_identical,
        interrupted: outcome.interrupted,
    };
    let folder = &options.output;
    let model = outcome.model.valid().into_record().into_bytes();
    let model = model.map_err(|error| format!("can't make a record of the model: {error}"))?;
    write(&folder.join(MODEL), &model)?;
    if let Some(path) = &options.report {
        report.write(path)?;
    }
    write(&folder.join(METRICS), csv(&outcome.epochs).as_bytes())?;
    write(&folder.join(PLOT), plot::svg(&outcome.epochs)?.as_bytes())?;
    say(format_args!(
        "test accuracy {:.2} % after {:.1} s of training ({:.0} samples/s, {:.1} % waiting for \
         synchronisation)\nreplicas identical: {}, parameters {}\nmodel, metrics and plot in {}",
        report.test_accuracy * 100.0,
        report.train_seconds,
        report.samples_per_second,
        report.sync_wait_fraction * 100.0,
        if report.replicas_identical {
            "yes"
        } else {
            "NO"
        },
        &report.parameters_sha256[..12],
        folder.display(),
    ));
    if report.replicas_identical {
        Ok(())
    } else {
        Err("the replicas hold different parameters; this is a defect, please report it".into())
    }
}

fn csv(epochs: &[Epoch]) -> String {
    let header = "epoch,samples,loss,accuracy,seconds,sync_wait_fraction\n".to_owned();
    epochs
        .iter()
        .enumerate()
        .fold(header, |mut text, (i, epoch)| {
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "{},{},{:.6},{:.6},{:.3},{:.4}",
                i + 1,
                epoch.samples,
                epoch.loss,
                epoch.accuracy,
                epoch.seconds,
                epoch.sync_wait_fraction,
            );
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_an_epoch() {
        let epoch = Epoch {
            samples: 8000.0,
            loss: 0.25,
            accuracy: 0.9,
            seconds: 2.0,
            sync_wait_fraction: 0.05,
        };
        let text = csv(&[epoch, epoch]);
        assert_eq!(text.lines().count(), 3);
        assert_eq!(
            text.lines().nth(2).unwrap(),
            "2,8000,0.250000,0.900000,2.000,0.0500"
        );
    }
}
