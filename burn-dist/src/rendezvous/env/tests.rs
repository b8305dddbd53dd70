use std::ffi::OsString;

use super::*;

type Set<'a> = &'a [(&'a str, &'a str)];

fn read(variables: Set<'_>) -> Result<Option<JobConfig>> {
    JobConfig::from_variables(&|name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| OsString::from(value))
    })
}

fn config(variables: Set<'_>) -> JobConfig {
    read(variables).unwrap().unwrap()
}

/// The variable that is at fault, and what is said of it.
fn fault(variables: Set<'_>) -> (&'static str, Option<String>, String) {
    let error = read(variables).unwrap_err();
    let text = error.to_string();
    match error {
        Error::Rendezvous {
            failure: JoinFailure::Variable { name, value, .. },
            ..
        } => (name, value, text),
        other => panic!("{other}"),
    }
}

const TORCH: Set<'_> = &[
    ("RANK", "5"),
    ("WORLD_SIZE", "8"),
    ("LOCAL_RANK", "1"),
    ("LOCAL_WORLD_SIZE", "4"),
    ("MASTER_ADDR", "node0"),
    ("MASTER_PORT", "1234"),
];
const MPI: Set<'_> = &[
    ("OMPI_COMM_WORLD_RANK", "3"),
    ("OMPI_COMM_WORLD_SIZE", "4"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ("MASTER_ADDR", "10.0.0.1"),
];
const SLURM: Set<'_> = &[
    ("SLURM_PROCID", "2"),
    ("SLURM_NTASKS", "16"),
    ("SLURM_LOCALID", "2"),
    ("SLURM_STEP_NODELIST", "gpu[07-09,12],cpu1"),
    ("SLURM_JOB_ID", "4200017"),
];
const KUBERNETES: Set<'_> = &[
    ("JOB_COMPLETION_INDEX", "1"),
    ("WORLD_SIZE", "2"),
    ("MASTER_ADDR", "train-0.train"),
];

/// `base` with changes: a variable replaced or added, or taken away by "-".
fn with<'a>(base: Set<'a>, changes: Set<'a>) -> Vec<(&'a str, &'a str)> {
    let kept = |name: &str| changes.iter().all(|(changed, _)| *changed != name);
    let mut variables: Vec<_> = base
        .iter()
        .copied()
        .filter(|(name, _)| kept(name))
        .collect();
    variables.extend(changes.iter().filter(|(_, value)| *value != "-"));
    variables
}

#[test]
fn nothing_set_is_no_job() {
    assert!(read(&[]).unwrap().is_none());
    // Any indexed Job has this, and a shell inside an allocation that.
    assert!(read(&[("JOB_COMPLETION_INDEX", "0")]).unwrap().is_none());
    assert!(read(&[("SLURM_NTASKS", "4")]).unwrap().is_none());
}

#[test]
fn every_launcher_is_understood() {
    for (variables, process, processes, local, master) in [
        (TORCH, 5, 8, Some(1), "node0:1234"),
        (MPI, 3, 4, Some(0), "10.0.0.1:29500"),
        (SLURM, 2, 16, Some(2), "gpu07:10017"),
        (KUBERNETES, 1, 2, None, "train-0.train:29500"),
    ] {
        let config = config(variables);
        assert_eq!((config.process(), config.processes()), (process, processes));
        assert_eq!(config.local_process(), local);
        assert_eq!(config.master(), master);
        assert!(config.get_secret().is_empty());
    }
    assert_eq!(config(TORCH).local_processes(), Some(4));
    assert_eq!(config(MPI).local_processes(), Some(2));
}

#[test]
fn the_interface_may_be_told() {
    assert_eq!(config(SLURM).get_interface(), None);
    let variables = with(SLURM, &[("BURN_DIST_INTERFACE", "ib0\n")]);
    assert_eq!(config(&variables).get_interface(), Some("ib0"));
    let (name, ..) = fault(&with(TORCH, &[("BURN_DIST_INTERFACE", "")]));
    assert_eq!(name, "BURN_DIST_INTERFACE");
}

#[test]
fn a_named_master_comes_before_what_slurm_says() {
    let variables = with(SLURM, &[("MASTER_ADDR", "head"), ("MASTER_PORT", "77")]);
    assert_eq!(config(&variables).master(), "head:77");
    let variables = with(SLURM, &[("MASTER_ADDR", "head")]);
    assert_eq!(config(&variables).master(), "head:10017");
    // The step's nodes may be a part of the job's.
    let variables = with(SLURM, &[("SLURM_NODELIST", "gpu[01-12]")]);
    assert_eq!(config(&variables).master(), "gpu07:10017");
}

#[test]
fn a_batch_script_of_slurm_is_no_process_of_a_job() {
    // What `sbatch --nodes=4 --ntasks-per-node=1` tells the script itself, on the first of four nodes.
    let batch: Set<'_> = &[
        ("SLURM_PROCID", "0"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_NTASKS", "4"),
        ("SLURM_NPROCS", "4"),
        ("SLURM_NODELIST", "gnode[10,20,25,37]"),
        ("SLURM_JOB_NODELIST", "gnode[10,20,25,37]"),
        ("SLURM_JOB_ID", "200505"),
    ];
    assert!(read(batch).unwrap().is_none());
    // And where it was not asked how many tasks it may start.
    assert!(
        read(&with(batch, &[("SLURM_NTASKS", "-")]))
            .unwrap()
            .is_none()
    );
    let task = with(batch, &[("SLURM_STEP_NODELIST", "gnode[10,20,25,37]")]);
    assert_eq!(config(&task).processes(), 4);
}

#[test]
fn the_port_of_torchrun_s_own_agent_is_left_alone() {
    let agent = |port, uses| {
        let changes = [
            ("TORCHELASTIC_USE_AGENT_STORE", uses),
            ("MASTER_PORT", port),
        ];
        config(&with(TORCH, &changes)).master().to_owned()
    };
    assert_eq!(agent("29500", "True"), "node0:29501");
    assert_eq!(agent("65535", "True"), "node0:65534");
    assert_eq!(agent("29500", "False"), "node0:29500");
}

#[test]
fn the_launcher_that_was_started_last_counts() {
    let variables = [SLURM, MPI, TORCH].concat();
    assert_eq!(config(&with(&variables, TORCH)).process(), 5);
    let variables = [SLURM, MPI].concat();
    assert_eq!(config(&variables).process(), 3);
}

#[test]
fn an_ipv6_master_gets_its_brackets() {
    let variables = with(TORCH, &[("MASTER_ADDR", "fd00::7")]);
    assert_eq!(config(&variables).master(), "[fd00::7]:1234");
}

#[test]
fn the_secret_and_the_address_file_come_along() {
    let variables = with(
        TORCH,
        &[
            ("BURN_DIST_SECRET", "0123456789abcdef"),
            ("BURN_DIST_ADDRESS_FILE", "/tmp/where"),
            ("MASTER_PORT", "0"),
        ],
    );
    let config = config(&variables);
    assert!(config.get_secret().is_safe());
    assert_eq!(
        config.get_address_file().unwrap().to_str(),
        Some("/tmp/where")
    );
    assert!(read(&with(TORCH, &[("BURN_DIST_SECRET", "")])).is_err());
}

#[test]
fn half_a_launcher_is_an_error_that_names_the_other_half() {
    for (base, gone) in [
        (TORCH, "WORLD_SIZE"),
        (TORCH, "RANK"),
        (TORCH, "MASTER_ADDR"),
        (TORCH, "MASTER_PORT"),
        (MPI, "OMPI_COMM_WORLD_RANK"),
        (MPI, "OMPI_COMM_WORLD_SIZE"),
        (MPI, "MASTER_ADDR"),
        (SLURM, "SLURM_NTASKS"),
        (KUBERNETES, "WORLD_SIZE"),
        (KUBERNETES, "MASTER_ADDR"),
    ] {
        let (name, value, text) = fault(&with(base, &[(gone, "-")]));
        assert_eq!((name, value), (gone, None), "{text}");
        assert!(text.contains("is not set; expected: "), "{text}");
    }
    for alone in [
        "WORLD_SIZE",
        "MASTER_ADDR",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
    ] {
        let (name, _, text) = fault(&[(alone, "1")]);
        assert_eq!(name, "RANK");
        assert!(text.contains(alone), "{text}");
    }
}

#[test]
fn values_that_cannot_be_right_are_named() {
    for (base, name, value) in [
        (TORCH, "RANK", "five"),
        (TORCH, "RANK", ""),
        (TORCH, "RANK", "-1"),
        (TORCH, "RANK", "8"),
        (TORCH, "WORLD_SIZE", "0"),
        (TORCH, "WORLD_SIZE", "99999999999999999999"),
        (TORCH, "LOCAL_RANK", "4"),
        (TORCH, "LOCAL_RANK", "x"),
        (TORCH, "LOCAL_WORLD_SIZE", "9"),
        (TORCH, "LOCAL_WORLD_SIZE", "0"),
        (TORCH, "MASTER_PORT", "65536"),
        (TORCH, "MASTER_PORT", "http"),
        (TORCH, "MASTER_PORT", "0"),
        (TORCH, "MASTER_ADDR", " "),
        (TORCH, "MASTER_ADDR", "two words"),
        (MPI, "OMPI_COMM_WORLD_RANK", "4"),
        (SLURM, "SLURM_PROCID", "16"),
        (SLURM, "SLURM_LOCALID", "16"),
        (SLURM, "SLURM_STEP_NODELIST", "gpu["),
        (SLURM, "SLURM_JOB_ID", "many"),
        (KUBERNETES, "JOB_COMPLETION_INDEX", "2"),
    ] {
        // A "-" of its own would take the variable away.
        let (found, said, text) = fault(&with(base, &[(name, value)]));
        assert_eq!((found, said.as_deref()), (name, Some(value)), "{text}");
        assert!(
            text.contains(&format!("{name} is {value:?}; expected: ")),
            "{text}"
        );
    }
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let error =
        JobConfig::from_variables(&|name| (name == "RANK").then(|| OsString::from_vec(vec![0xff])));
    assert!(error.unwrap_err().to_string().contains("RANK is"));
}
