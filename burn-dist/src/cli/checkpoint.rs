//! The flags of checkpoints, and the checkpoints of a run that has these flags.

use crate::checkpoint::{CheckpointConfig, Checkpoints, Restored, Snapshot};
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use clap::{Args, value_parser};
use std::path::PathBuf;

/// Checkpoints of a program with a loop of its own.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Checkpoints")]
pub struct CheckpointArgs {
    /// Folder for checkpoints, which only process 0 uses; made if missing [default: none are written]
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,

    /// Steps from one checkpoint to the next
    #[arg(long, value_name = "N", default_value_t = 100, requires = "checkpoint", value_parser = value_parser!(u64).range(1..))]
    pub checkpoint_every: u64,

    /// Number of checkpoints to keep
    #[arg(long, value_name = "K", default_value_t = 3, requires = "checkpoint", value_parser = value_parser!(u32).range(1..))]
    pub keep: u32,

    /// Go on from the last checkpoint, with the same flags; from the beginning if there is none
    /// [default: the folder must have none]
    #[arg(long, requires = "checkpoint")]
    pub resume: bool,
}

impl CheckpointArgs {
    /// Returns the configuration; `None` without `--checkpoint`.
    pub fn config(&self) -> Option<CheckpointConfig> {
        let folder = self.checkpoint.clone()?;
        Some(
            CheckpointConfig::new(folder)
                .with_keep(self.keep as usize)
                .with_resume(self.resume),
        )
    }

    /// Opens the checkpoints of a run with these settings, and reads the one to go on from, if there is one. Every rank
    /// of the group calls it.
    ///
    /// # Errors
    /// As [`CheckpointConfig::init`].
    pub fn init(
        &self,
        group: &ProcessGroup,
        settings: &[(String, String)],
    ) -> Result<(RunCheckpoints, Option<Restored>)> {
        let (checkpoints, restored) = match self.config() {
            None => (None, None),
            Some(config) => {
                let config = config.with_settings(settings.to_vec());
                let (checkpoints, restored) = config.init(group)?;
                (Some(checkpoints), restored)
            }
        };
        let every = self.checkpoint_every;
        Ok((RunCheckpoints { checkpoints, every }, restored))
    }

    /// Returns the flags that all processes of a job must have alike, for [`Job::with_options`](super::Job::with_options).
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let given = self.checkpoint.is_some();
        vec![
            ("--checkpoint is given", given.to_string()),
            ("--checkpoint-every", self.checkpoint_every.to_string()),
            ("--resume", self.resume.to_string()),
        ]
    }
}

/// Checkpoints of a run, or none where the flags ask for none. Made by [`CheckpointArgs::init`].
#[derive(Debug)]
pub struct RunCheckpoints {
    checkpoints: Option<Checkpoints>,
    every: u64,
}

impl RunCheckpoints {
    /// Returns true if a checkpoint is due after this step, counted from 1.
    pub fn is_due(&self, step: u64) -> bool {
        self.checkpoints.is_some() && step.is_multiple_of(self.every)
    }

    /// Saves what `fill` adds to a snapshot after this step, if the run has checkpoints. A disk that refuses is a
    /// warning in the log, and [`finish`](Self::finish) tells it at the end.
    ///
    /// # Errors
    /// As [`Checkpoints::save`].
    pub fn save(&mut self, step: u64, fill: impl FnOnce(Snapshot) -> Snapshot) -> Result<()> {
        if let Some(checkpoints) = &mut self.checkpoints {
            let snapshot = fill(checkpoints.snapshot(step));
            checkpoints.save(snapshot)?;
        }
        Ok(())
    }

    /// Ends the checkpoints of a run. Returns the reason why the run is not whole: that it was interrupted, for the
    /// reason given, or that its last checkpoint is not on disk. Every rank calls it.
    ///
    /// # Errors
    /// The group's own.
    pub fn finish(self, interrupted: Option<String>) -> Result<Option<String>> {
        let Some(checkpoints) = self.checkpoints else {
            return Ok(interrupted);
        };
        let lost = match checkpoints.finish() {
            Ok(()) => None,
            Err(lost @ Error::Checkpoint { .. }) => {
                Some(format!("the last checkpoint is not on disk: {lost}"))
            }
            Err(error) => return Err(error),
        };
        Ok(match (interrupted, lost) {
            (Some(why), None) => Some(format!("{why}; --resume goes on from there")),
            (Some(why), Some(lost)) => Some(format!("{why}; {lost}")),
            (None, lost) => lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        checkpoints: CheckpointArgs,
    }

    #[test]
    fn checkpoints_are_due_every_so_many_steps_of_a_run_that_has_them() {
        let (folder, group) = (tempfile::tempdir().unwrap(), ProcessGroup::single());
        let folder = folder.path().to_str().unwrap();
        let parse = |flags: &[&str]| {
            let parsed = Program::try_parse_from(["program"].iter().chain(flags));
            parsed.map(|program| program.checkpoints)
        };
        let settings = |rate: &str| [("--lr".to_owned(), rate.to_owned())];
        let none = parse(&[]).unwrap();
        let (mut none, _) = none.init(&group, &settings("1")).unwrap();
        none.save(100, |_| unreachable!("there are no checkpoints"))
            .unwrap();
        assert!(!none.is_due(100));
        assert_eq!(
            none.finish(Some("stopped".into())).unwrap(),
            Some("stopped".into())
        );

        let every = [
            "--checkpoint",
            folder,
            "--checkpoint-every",
            "3",
            "--resume",
        ];
        let args = parse(&every).unwrap();
        let (mut some, restored) = args.init(&group, &settings("1")).unwrap();
        assert!(some.is_due(6) && !some.is_due(7) && restored.is_none());
        some.save(6, |snapshot| snapshot.with_own("a", &7)).unwrap();
        let stopped = some.finish(Some("stopped".into())).unwrap().unwrap();
        assert_eq!(stopped, "stopped; --resume goes on from there");

        let error = args.init(&group, &settings("2")).unwrap_err().to_string();
        assert!(error.contains("--lr: expected \"1\", got \"2\""), "{error}");
        let error = args
            .init(&group, &settings("1")[..0])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--lr: expected \"1\", got not set"),
            "{error}"
        );
        let (_, restored) = args.init(&group, &settings("1")).unwrap();
        assert_eq!(restored.unwrap().step(), 6);
        assert!(parse(&["--resume"]).is_err());
    }
}
