//! What a launched program sees of its job: the environment of a real process, read by the public API.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use burn_dist::{Error, JobConfig, JoinFailure, Secret};

const CHILD: &str = "BURN_DIST_TEST_CHILD";

/// Returns the configuration that a process reads from these variables, and no others of a launcher.
fn child(variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "prints_its_job", "--nocapture"]);
    let launchers = [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_",
        "MASTER_",
        "OMPI_",
        "SLURM_",
        "JOB_COMPLETION",
        "PMI",
        "MPI_LOCAL",
        "MV2_",
        "JSM_",
        "HOROVOD_",
        "FLUX_",
        "PET_",
        "SKYPILOT_",
        "LWS_",
        "PALS_",
        "ALPS_",
        "SM_HOSTS",
        "TORCHELASTIC_",
        "BURN_DIST_",
    ];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if launchers.iter().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    let output = command
        .env(CHILD, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Not a test of its own: the process that [`child`] starts.
#[test]
fn prints_its_job() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    match JobConfig::from_env() {
        Ok(None) => println!("no job"),
        Ok(Some(job)) => println!(
            "process {} of {} at {}: {job:?}",
            job.process(),
            job.processes(),
            job.master()
        ),
        Err(error) => println!("error: {error}"),
    }
}

const JOB: [(&str, &str); 4] = [
    ("RANK", "1"),
    ("WORLD_SIZE", "4"),
    ("MASTER_ADDR", "localhost"),
    ("MASTER_PORT", "29501"),
];

#[test]
fn a_process_started_by_hand_has_no_job() {
    assert!(child(&[]).contains("no job"));
}

#[test]
fn a_launched_process_knows_its_place_and_hides_the_secret() {
    let secret = Secret::generate().unwrap();
    let variables = [&JOB[..], &[("BURN_DIST_SECRET", &secret)]].concat();
    let output = child(&variables);
    assert!(
        output.contains("process 1 of 4 at localhost:29501"),
        "{output}"
    );
    assert!(output.contains("Secret(hidden)"), "{output}");
    assert!(!output.contains(&secret), "{output}");
}

#[test]
fn a_wrong_variable_is_named() {
    let output = child(&[&JOB[1..], &[("RANK", "4")]].concat());
    let expected = "error: joining the job: RANK is \"4\"; expected: a number from 0 to 3, because WORLD_SIZE is 4";
    assert!(output.contains(expected), "{output}");
}

#[test]
fn a_secret_that_cannot_be_had_is_an_error_a_program_can_tell_apart() {
    let error = Secret::from_file("/no/such/file").unwrap_err();
    let Error::Rendezvous { failure, .. } = &error else {
        unreachable!("{error}");
    };
    assert!(matches!(failure, JoinFailure::Configuration(_)));
    assert!(error.to_string().contains("/no/such/file"));
}
