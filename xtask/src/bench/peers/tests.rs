use super::*;

fn setting(bench: Bench, layout: Layout) -> Setting<'static> {
    Setting {
        bench,
        layout,
        ranks: 2,
        sizes: &[8, 1024],
        budget: 0.5,
    }
}

fn words(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}

#[test]
fn each_peer_does_what_is_timed() {
    let serving = |bench, layout, ranks| {
        let kinds = Kind::ALL.into_iter();
        kinds
            .filter(|kind| kind.serves(bench, layout, ranks))
            .collect::<Vec<_>>()
    };
    let (threads, processes) = (Layout::Threads, Layout::Processes);
    let mpi_and_burn = [Kind::BurnCollective, Kind::OpenMpiShared];
    assert_eq!(serving(Bench::AllReduce, threads, 2), mpi_and_burn);
    let over_tcp = [Kind::RawTcp, Kind::OpenMpiTcp, Kind::Torch];
    assert_eq!(serving(Bench::AllReduce, processes, 2), over_tcp);
    assert_eq!(serving(Bench::AllReduce, processes, 4), over_tcp[1..]);
    assert_eq!(serving(Bench::DdpStep, processes, 4), [Kind::Torch]);
    assert_eq!(serving(Bench::DdpStep, threads, 4), []);
    assert_eq!(serving(Bench::Startup, processes, 4), []);
    assert_eq!(serving(Bench::Growth, processes, 64), over_tcp[1..]);
    assert_eq!(serving(Bench::Broadcast, processes, 16), over_tcp[1..]);
    assert_eq!(serving(Bench::Launch, processes, 64), [Kind::OpenMpiTcp]);
}

#[test]
fn a_peer_gets_the_flags_of_ours() {
    let flags = "--layout processes --ranks 2 --sizes 8,1024 --budget 0.5";
    let peer = |kind, file: Option<&str>| Peer {
        kind,
        program: "/p".into(),
        file: file.map(PathBuf::from),
    };
    let all_reduce = setting(Bench::AllReduce, Layout::Processes);
    let mpi = words(&peer(Kind::OpenMpiTcp, Some("/f")).command(&all_reduce));
    assert!(mpi.contains(" --mca btl tcp,self -np 2 "), "{mpi}");
    assert!(mpi.contains(" /f --bench all-reduce "), "{mpi}");
    assert!(mpi.contains("mpi_yield_when_idle 1"), "{mpi}");
    assert!(
        mpi.ends_with(flags) && mpi.contains("--oversubscribe"),
        "{mpi}"
    );
    assert_eq!(mpi.contains("--allow-run-as-root"), is_root());
    let torch = words(&peer(Kind::Torch, Some("/f")).command(&all_reduce));
    assert_eq!(torch, format!("/p /f --bench all-reduce {flags}"));
    let raw = words(&peer(Kind::RawTcp, None).command(&all_reduce));
    assert_eq!(raw, "/p --sizes 8,1024 --budget 0.5");
    let burn = setting(Bench::AllReduce, Layout::Threads);
    let burn = words(&peer(Kind::BurnCollective, None).command(&burn));
    assert_eq!(
        burn,
        format!("/p {}", flags.replace("processes", "threads"))
    );
}

#[test]
fn the_sources_are_where_they_are_looked_for() {
    for name in [
        "openmpi.c",
        "gloo.py",
        "burn-collective/Cargo.toml",
        "burn-collective/Cargo.lock",
    ] {
        assert!(source(name).is_file(), "{name}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let reason = find("no-such-program").unwrap_err();
    assert!(
        reason.contains("no-such-program") && reason.contains("PATH"),
        "{reason}"
    );
}
