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
    ("SLURM_STEP_ID", "0"),
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
        assert!(config.secret().is_empty());
    }
    assert_eq!(config(TORCH).local_processes(), Some(4));
    assert_eq!(config(MPI).local_processes(), Some(2));
}

/// A process number 1 of 2 on two machines, as every other launcher tells it.
const OTHERS: [Set<'_>; 9] = [
    // mpiexec of MPICH and Intel MPI.
    &[
        ("PMI_RANK", "1"),
        ("PMI_SIZE", "2"),
        ("MPI_LOCALRANKID", "0"),
        ("MPI_LOCALNRANKS", "1"),
        ("MASTER_ADDR", "first"),
    ],
    &[
        ("PMI_RANK", "1"),
        ("PMI_SIZE", "2"),
        ("PMI_LOCAL_RANK", "0"),
        ("PMI_LOCAL_SIZE", "1"),
        ("MASTER_ADDR", "first"),
    ],
    &[
        ("MV2_COMM_WORLD_RANK", "1"),
        ("MV2_COMM_WORLD_SIZE", "2"),
        ("MV2_COMM_WORLD_LOCAL_RANK", "0"),
        ("MV2_COMM_WORLD_LOCAL_SIZE", "1"),
        ("MASTER_ADDR", "first"),
    ],
    &[
        ("JSM_NAMESPACE_RANK", "1"),
        ("JSM_NAMESPACE_SIZE", "2"),
        ("JSM_NAMESPACE_LOCAL_RANK", "0"),
        ("JSM_NAMESPACE_LOCAL_SIZE", "1"),
        ("MASTER_ADDR", "first"),
    ],
    &[
        ("HOROVOD_RANK", "1"),
        ("HOROVOD_SIZE", "2"),
        ("HOROVOD_LOCAL_RANK", "0"),
        ("HOROVOD_LOCAL_SIZE", "1"),
        ("MASTER_ADDR", "first"),
    ],
    // A program that a Pod of Kubeflow starts without torchrun.
    &[
        ("PET_NODE_RANK", "1"),
        ("PET_NNODES", "2"),
        ("PET_NPROC_PER_NODE", "auto"),
        ("PET_MASTER_ADDR", "first"),
        ("PET_MASTER_PORT", "29500"),
        ("JOB_COMPLETION_INDEX", "1"),
    ],
    &[
        ("PET_NODE_RANK", "1"),
        ("PET_NNODES", "2:2"),
        ("PET_RDZV_ENDPOINT", "first:29500"),
    ],
    &[
        ("SKYPILOT_NODE_RANK", "1"),
        ("SKYPILOT_NUM_NODES", "2"),
        ("SKYPILOT_NODE_IPS", "first\nsecond"),
    ],
    &[
        ("LWS_WORKER_INDEX", "1"),
        ("LWS_GROUP_SIZE", "2"),
        ("LWS_LEADER_ADDRESS", "first"),
    ],
];

#[test]
fn nine_more_launchers_tell_the_number_of_a_process() {
    for variables in OTHERS {
        let config = config(variables);
        assert_eq!((config.process(), config.processes()), (1, 2));
        assert_eq!(config.local_process(), Some(0), "{variables:?}");
        assert_eq!(config.local_processes(), Some(1), "{variables:?}");
        assert_eq!(config.master(), "first:29500", "{variables:?}");
    }
    let flux = [
        ("FLUX_TASK_RANK", "1"),
        ("FLUX_JOB_SIZE", "2"),
        ("FLUX_TASK_LOCAL_ID", "0"),
        ("FLUX_JOB_ID", "ƒ2Xn"),
        ("PMI_RANK", "1"),
        ("PMI_SIZE", "2"),
        ("MASTER_ADDR", "first"),
    ];
    let config = config(&flux);
    assert_eq!((config.process(), config.processes()), (1, 2));
    assert_eq!(config.job_name(), "ƒ2Xn");
}

#[test]
fn half_of_any_launcher_s_variables_is_an_error_that_names_the_other_half() {
    for variables in OTHERS {
        let [(number, _), (count, _)] = [variables[0], variables[1]];
        for (gone, left) in [(number, count), (count, number)] {
            let (name, value, text) = fault(&with(variables, &[(gone, "-")]));
            assert_eq!(
                (name, value),
                (gone, None),
                "without {gone}, with {left}: {text}"
            );
        }
    }
    for (variables, words) in [
        (&[("PMIX_RANK", "1")][..], "PMIX_RANK is \"1\""),
        (&[("ALPS_APP_PE", "0")], "ALPS_APP_PE"),
        (&[("SM_HOSTS", "[\"algo-1\",\"algo-2\"]")], "algo-2"),
    ] {
        let (name, _, text) = fault(variables);
        assert_eq!(name, "RANK");
        assert!(
            text.contains(words) && text.contains("WORLD_SIZE"),
            "{text}"
        );
    }
    assert!(read(&[("SM_HOSTS", "[\"algo-1\"]")]).unwrap().is_none());
    // A number of nodes that may change is for torchrun.
    let (name, _, text) = fault(&with(OTHERS[5], &[("PET_NNODES", "1:4")]));
    assert_eq!(name, "PET_NNODES");
    assert!(text.contains("torchrun"), "{text}");
}

#[test]
fn an_mpirun_inside_a_slurm_step_counts_and_what_srun_says_in_mpich_s_way_does_not() {
    // With --mpi=pmi2, srun sets both.
    let both = [SLURM, &[("PMI_RANK", "2"), ("PMI_SIZE", "16")]].concat();
    assert_eq!(config(&both).master(), config(SLURM).master());
    // Hydra starts a proxy on each node by srun, and its processes through that.
    let hydra = [
        ("PMI_RANK", "5"),
        ("PMI_SIZE", "32"),
        ("MASTER_ADDR", "first"),
    ];
    let inside = [SLURM, &hydra].concat();
    assert_eq!(
        (config(&inside).process(), config(&inside).processes()),
        (5, 32)
    );
}

#[test]
fn a_job_of_one_process_needs_no_address() {
    let pty = [
        ("SLURM_PROCID", "0"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_NTASKS", "4"),
        ("SLURM_STEP_NUM_TASKS", "1"),
        ("SLURM_STEP_TASKS_PER_NODE", "1"),
        ("SLURM_STEP_NODELIST", "gpu07"),
        ("SLURM_JOB_ID", "4200017"),
    ];
    for variables in [
        &[("RANK", "0"), ("WORLD_SIZE", "1")][..],
        &[("JOB_COMPLETION_INDEX", "0"), ("WORLD_SIZE", "1")],
        &[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")],
        &[("PET_NNODES", "1")],
        &pty,
    ] {
        let config = config(variables);
        assert_eq!((config.process(), config.processes()), (0, 1));
        config.check().unwrap();
    }
}

#[test]
fn processes_of_one_machine_need_no_address() {
    let one_machine = [("OMPI_COMM_WORLD_LOCAL_SIZE", "4"), ("MASTER_ADDR", "-")];
    let job = config(&with(MPI, &one_machine));
    assert_eq!(job.master(), "127.0.0.1:29500");
}

#[test]
fn slurm_tells_how_many_tasks_this_node_has() {
    let local = |changes: Set<'_>| config(&with(SLURM, changes)).local_processes();
    let step = |list| local(&[("SLURM_STEP_TASKS_PER_NODE", list), ("SLURM_NODEID", "4")]);
    assert_eq!(step("3(x4),4"), Some(4));
    assert_eq!(step("3(x5),1"), Some(3));
    // Not of these 16 tasks.
    assert_eq!(step("4(x5)"), None);
    assert_eq!(local(&[("SLURM_STEP_TASKS_PER_NODE", "16")]), Some(16));
    assert_eq!(local(&[("SLURM_NTASKS_PER_NODE", "8")]), Some(8));
    // It was asked for of another step: this task is the third on its node.
    assert_eq!(local(&[("SLURM_NTASKS_PER_NODE", "2")]), None);
    // The step's own number of tasks decides.
    let fewer = [
        ("SLURM_STEP_NUM_TASKS", "4"),
        ("SLURM_STEP_TASKS_PER_NODE", "3,1"),
        ("SLURM_TASKS_PER_NODE", "8(x2)"),
        ("SLURM_NODEID", "0"),
    ];
    assert_eq!(config(&with(SLURM, &fewer)).processes(), 4);
    assert_eq!(local(&fewer), Some(3));
    let (name, ..) = fault(&with(SLURM, &[("SLURM_STEP_TASKS_PER_NODE", "2(x")]));
    assert_eq!(name, "SLURM_STEP_TASKS_PER_NODE");
}

#[test]
fn every_step_of_a_slurm_job_has_a_name_and_a_port_of_its_own() {
    let mut seen = std::collections::HashSet::new();
    for step in 0..100 {
        let step = step.to_string();
        let config = config(&with(SLURM, &[("SLURM_STEP_ID", &step)]));
        assert_eq!(config.job_name(), format!("Slurm 4200017.{step}"));
        assert!(seen.insert(config.master().to_owned()), "step {step}");
    }
    // What a person calls the job comes on top: one name exported for all steps joins none of them.
    let named = config(&with(SLURM, &[("BURN_DIST_JOB", "mnist")]));
    assert_eq!(named.job_name(), "Slurm 4200017.0/mnist");
    assert!(!seen.contains(named.master()));
    // By the builder it comes to the same.
    let built = config(SLURM).with_name("mnist").unwrap();
    assert_eq!(built.master(), named.master());
    let fixed = with(SLURM, &[("MASTER_PORT", "77"), ("BURN_DIST_JOB", "mnist")]);
    assert_eq!(config(&fixed).master(), "gpu07:77");
}

#[test]
fn the_name_of_a_job_comes_from_its_launcher_and_from_the_user() {
    let name = |variables: Set<'_>, changes| config(&with(variables, changes)).job_name();
    assert_eq!(name(TORCH, &[]), "");
    assert_eq!(name(TORCH, &[("TORCHELASTIC_RUN_ID", "none")]), "");
    assert_eq!(name(TORCH, &[("TORCHELASTIC_RUN_ID", "a1")]), "a1");
    assert_eq!(name(TORCH, &[("BURN_DIST_JOB", "b")]), "b");
    assert_eq!(
        name(MPI, &[("PMIX_NAMESPACE", "prterun-7@1")]),
        "prterun-7@1"
    );
    assert_eq!(name(MPI, &[("PMIX_NAMESPACE", &"x".repeat(999))]).len(), 16);
    let port = |changes| config(&with(MPI, changes)).master().to_owned();
    assert_ne!(
        port(&[("PMIX_NAMESPACE", "1")]),
        port(&[("PMIX_NAMESPACE", "2")])
    );
    for wrong in ["", " ", "a\nb", &"x".repeat(257)] {
        let (variable, ..) = fault(&with(TORCH, &[("BURN_DIST_JOB", wrong)]));
        assert_eq!(variable, "BURN_DIST_JOB");
        assert!(config(TORCH).with_name(wrong).is_err());
    }
}

#[test]
fn times_are_told_in_seconds_and_arguments_go_before_them() {
    let job = config(&with(
        TORCH,
        &[
            ("BURN_DIST_JOIN_TIMEOUT", "90"),
            ("BURN_DIST_HEARTBEAT", "0.5"),
        ],
    ));
    assert_eq!(job.join_timeout(), Duration::from_secs(90));
    assert_eq!(job.heartbeat(), Duration::from_millis(500));
    let longer = job.with_heartbeat(Duration::from_secs(7));
    assert_eq!(longer.heartbeat(), Duration::from_secs(7));
    for name in [
        "BURN_DIST_JOIN_TIMEOUT",
        "BURN_DIST_HEARTBEAT",
        "BURN_DIST_TIMEOUT",
    ] {
        for wrong in ["", "0", "-1", "5m", "NaN", "inf", "1e300", "2592001"] {
            // Also where no launcher is.
            let (variable, value, text) = fault(&[(name, wrong)]);
            assert_eq!((variable, value.as_deref()), (name, Some(wrong)));
            assert!(text.contains("seconds above 0"), "{text}");
        }
    }
    let timeout = |text: &str| {
        let lookup = |name: &str| (name == TIMEOUT).then(|| OsString::from(text));
        Variables(&lookup).seconds(TIMEOUT).unwrap()
    };
    assert_eq!(timeout(" 2.5 "), Some(Duration::from_millis(2500)));
}

#[test]
fn a_process_that_stands_still_for_eight_seconds_is_not_given_up() {
    // The last sign of life may have come a third of the heartbeat before, and be read a round late.
    let heartbeat = JobConfig::new(0, 2, "a:1").heartbeat();
    assert!(Duration::from_secs(8) + heartbeat / 3 + Duration::from_millis(500) < heartbeat);
}

#[test]
fn the_interface_may_be_told() {
    assert_eq!(config(SLURM).interface(), None);
    let variables = with(SLURM, &[("BURN_DIST_INTERFACE", "ib0\n")]);
    assert_eq!(config(&variables).interface(), Some("ib0"));
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
    assert!(config.secret().is_safe());
    assert_eq!(config.address_file().unwrap().to_str(), Some("/tmp/where"));
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
