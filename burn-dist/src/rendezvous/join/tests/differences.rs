//! Processes that were started for other jobs or with other options, and processes that end before all have
//! joined: told to all, long before the deadline.

use super::*;
use crate::error::OptionValue;
use crate::rendezvous::Tuned;

/// Returns the failure of each of these processes, none of which waits for its deadline, [`PATIENCE`].
fn failures(configs: Vec<JobConfig>) -> Vec<JoinFailure> {
    let start = Instant::now();
    let failures = thread::scope(|scope| {
        let joining: Vec<_> = configs
            .into_iter()
            .map(|config| spawn(scope, config))
            .collect();
        let ended = joining.into_iter().map(|one| one.join().unwrap());
        ended.map(failure).collect()
    });
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    failures
}

#[test]
fn options_that_differ_are_refused_on_all_processes_with_their_values() {
    let (listener, master) = master();
    let with = |number, lr: &str| {
        let options = [("--seed", "42"), ("--lr", lr)];
        process(number, 3, &master).with_options(options)
    };
    let first = with(0, "0.03").with_listener(listener);
    let failures = failures(vec![first, with(1, "0.3"), with(2, "0.03")]);
    for failure in &failures {
        let JoinFailure::Options(differing) = failure else {
            panic!("{failure}");
        };
        let value = |value: &str, processes: &[usize]| OptionValue {
            value: Some(value.to_owned()),
            processes: processes.to_vec(),
            count: processes.len(),
        };
        assert_eq!(differing.len(), 1);
        assert_eq!(differing[0].name, "--lr");
        assert_eq!(
            differing[0].values,
            [value("0.03", &[0, 2]), value("0.3", &[1])]
        );
    }
}

#[test]
fn crossovers_of_process_0_hold_for_all() {
    let (listener, master) = master();
    let sizes = |bytes| Crossovers::default().with_all_reduce(2, bytes, 0);
    thread::scope(|scope| {
        let with = |number| process(number, 2, &master).with_crossovers(sizes(number + 7));
        let other = spawn(scope, with(1));
        let first = join(&with(0).with_listener(listener), 1).unwrap();
        for joined in [first, other.join().unwrap().unwrap()] {
            assert_eq!(joined.crossovers, sizes(7));
        }
    });
}

#[test]
fn a_file_of_crossovers_is_for_so_many_processes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("crossovers.json");
    let job = |number, processes| JobConfig::new(number, processes, "10.0.0.1:29500");
    let refused = |config: Result<JobConfig>| config.unwrap_err().to_string();
    assert!(refused(job(0, 2).with_crossovers_file(&file)).contains("crossovers.json"));
    let sizes = Crossovers::default().with_broadcast(5);
    let tuned = Tuned::new("node0", 2, 2, sizes.clone());
    tuned.write(&file).unwrap();
    let chosen = job(0, 2).with_crossovers_file(&file).unwrap();
    assert_eq!(chosen.crossovers(), Some(&sizes));
    let other = refused(job(0, 3).with_crossovers_file(&file));
    assert!(
        other.contains("2 processes") && other.contains("burn-dist bench tune"),
        "{other}"
    );
    // Process 0's file is read, and no other.
    let second = job(1, 3).with_crossovers_file("/no/such/file").unwrap();
    assert_eq!(second.crossovers(), None);
}

#[test]
fn equal_options_join() {
    let (listener, master) = master();
    thread::scope(|scope| {
        let with = |number| process(number, 2, &master).with_options([("--lr", "0.03")]);
        let other = spawn(scope, with(1));
        let first = join(&with(0).with_listener(listener), 1).unwrap();
        check(&[first, other.join().unwrap().unwrap()]);
    });
}

#[test]
fn jobs_of_other_names_never_join_with_one_secret_and_port() {
    for names in [
        [Some("1.0"), Some("1.1")],
        [Some("1.0"), None],
        [None, Some("1.1")],
    ] {
        let (listener, master) = master();
        let with = |number: usize, name: Option<&str>| {
            let config = process(number, 2, &master).with_secret(Secret::new(b"one secret"));
            match name {
                Some(name) => config.with_name(name).unwrap(),
                None => config,
            }
        };
        thread::scope(|scope| {
            let host = with(0, names[0]).with_listener(listener);
            let host = spawn(scope, host.with_join_timeout(Duration::from_secs(1)));
            let other = failure(join(&with(1, names[1]), 1)).to_string();
            for name in names {
                let name = name.map_or("a job without a name".to_owned(), |name| {
                    format!("{name:?}")
                });
                assert!(other.contains(&name), "{other}");
            }
            assert!(other.contains("another job listens"), "{other}");
            let JoinFailure::Missing { turned_away, .. } = failure(host.join().unwrap()) else {
                panic!("process 0 waits for its own");
            };
            assert_eq!(turned_away, 1);
        });
    }
}

#[test]
fn a_process_that_ends_before_all_have_joined_is_told_to_all() {
    let (listener, master) = master();
    // It has reached the store, and then its connection breaks.
    let dies = |number| {
        let deadline = Instant::now() + PATIENCE;
        let address = master.parse().unwrap();
        let mut store =
            StoreClient::connect(address, &Secret::default(), None, "", deadline).unwrap();
        store.announce(number).unwrap();
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let first = spawn(scope, process(0, 3, &master).with_listener(listener));
        let second = spawn(scope, process(1, 3, &master));
        until_entered(&master, 1);
        dies(2);
        for survivor in [first, second] {
            let failure = failure(survivor.join().unwrap());
            let expected = JoinFailure::Gone {
                process: 2,
                reason: None,
            };
            assert_eq!(failure, expected);
        }
    });
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

#[test]
fn a_process_that_cannot_listen_tells_all_why() {
    let (listener, master) = master();
    let first = process(0, 3, &master).with_listener(listener);
    let fails = process(1, 3, &master).with_interface("none0");
    let failures = failures(vec![first, fails, process(2, 3, &master)]);
    for number in [0, 2] {
        let JoinFailure::Gone {
            process: 1,
            reason: Some(reason),
        } = &failures[number]
        else {
            panic!("{}", failures[number]);
        };
        assert!(reason.contains("none0: this is no address"), "{reason}");
    }
    assert!(
        matches!(failures[1], JoinFailure::Configuration(_)),
        "{}",
        failures[1]
    );
}

#[test]
fn a_process_that_leaves_in_good_order_is_not_gone() {
    let (listener, master) = master();
    thread::scope(|scope| {
        let other = spawn(scope, process(1, 2, &master));
        let mut first = join(&process(0, 2, &master).with_listener(listener), 1).unwrap();
        let other = other.join().unwrap().unwrap();
        other.store.leave().unwrap();
        assert_eq!(first.store.gone(Instant::now()), Ok(None));
    });
}

#[test]
fn a_loopback_address_is_doubted_unless_all_processes_are_known_to_be_there() {
    let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
    let doubted = |local, name, ip: &str| {
        let config = process(0, 4, "a:1").local(Some(0), local);
        host::is_loopback_in_doubt(&config, name, ip.parse().unwrap_or(loopback))
    };
    assert!(doubted(None, "localhost", "127.0.0.1"));
    assert!(doubted(None, "node1", "127.0.1.1"));
    assert!(doubted(None, "127.0.1.1", "127.0.1.1"));
    assert!(doubted(Some(2), "127.0.0.1", "127.0.0.1"));
    assert!(!doubted(None, "127.0.0.1", "127.0.0.1"));
    assert!(!doubted(Some(4), "localhost", "127.0.0.1"));
    assert!(!doubted(None, "node1", "10.0.0.1"));
}

#[test]
fn a_process_that_fails_before_it_joins_tells_all() {
    for fails in [0, 1] {
        let master = format!("127.0.0.1:{}", quiet_port());
        let start = Instant::now();
        thread::scope(|scope| {
            let others = [0, 1, 2].into_iter().filter(|&number| number != fails);
            let others: Vec<_> = others
                .map(|number| spawn(scope, process(number, 3, &master)))
                .collect();
            process(fails, 3, &master).abandon("no data").unwrap();
            for other in others {
                let failure = failure(other.join().unwrap());
                let expected = JoinFailure::Gone {
                    process: fails,
                    reason: Some("no data".to_owned()),
                };
                assert_eq!(failure, expected);
            }
        });
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    }
}

#[test]
fn a_rank_0_that_torchrun_put_on_another_machine_says_what_to_tell_torchrun() {
    let variables = [
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "192.0.2.1"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("BURN_DIST_SECRET", "0123456789abcdef"),
    ];
    let job = JobConfig::from_variables(&|name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.into())
    });
    let failure = failure(join(&job.unwrap().unwrap(), 1));
    assert!(matches!(failure, JoinFailure::Listen(_)), "{failure}");
    let text = failure.to_string();
    assert!(
        text.contains("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"),
        "{text}"
    );
}
