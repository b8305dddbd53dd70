use super::*;
use clap::Parser;

#[derive(Parser, Debug)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
}

fn parse(words: &str) -> Arguments {
    let words = std::iter::once("run").chain(words.split_whitespace());
    Program::try_parse_from(words).unwrap().arguments
}

fn with_secret(name: &'static str) -> Option<OsString> {
    (name == "BURN_DIST_SECRET").then(|| "secret".into())
}

fn variables(command: &Command) -> Vec<(&str, &str)> {
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    set.map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap()))
        .collect()
}

#[test]
fn arguments_after_the_program_are_passed_on() {
    for words in [
        "--nproc-per-node 2 -- mnist --gpus 2 --nnodes 3 -- -x",
        "--nproc_per_node 2 mnist --gpus 2 --nnodes 3 -- -x",
    ] {
        let arguments = parse(words);
        let expected = ["mnist", "--gpus", "2", "--nnodes", "3", "--", "-x"];
        assert_eq!(arguments.command, expected, "{words}");
        assert_eq!((arguments.nnodes, arguments.nproc_per_node), (1, 2));
    }
}

#[test]
fn each_process_is_told_its_place() {
    let words = "--nnodes 2 --nproc-per-node 3 --node-rank 1 --rdzv node0:29400 --job j -- program argument";
    let arguments = parse(words);
    let node = Node::of(&arguments, with_secret).unwrap();
    for (local, rank) in [(0, "3"), (1, "4"), (2, "5")] {
        let command = node.command(local);
        assert_eq!(command.get_program(), "program");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["argument"]);
        let local = local.to_string();
        let variables = variables(&command);
        for expected in [
            ("RANK", rank),
            ("WORLD_SIZE", "6"),
            ("LOCAL_RANK", local.as_str()),
            ("LOCAL_WORLD_SIZE", "3"),
            ("GROUP_RANK", "1"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "29400"),
            ("BURN_DIST_JOB", "j"),
        ] {
            assert!(variables.contains(&expected), "{expected:?}");
        }
        assert!(
            variables
                .iter()
                .all(|(name, _)| *name != "BURN_DIST_SECRET")
        );
    }
}

#[test]
fn torchrun_s_spellings_mean_the_same() {
    for words in [
        "--nnodes 2 --node-rank 1 --rdzv h:7 p",
        "--nnodes=2 --node_rank=1 --rdzv_endpoint=h:7 p",
        "--nnodes 2 --node_rank 1 --rdzv-endpoint h:7 p",
        "--nnodes 2 --node-rank 1 --master_addr h --master_port 7 p",
    ] {
        let arguments = parse(words);
        let node = Node::of(&arguments, with_secret).unwrap();
        assert_eq!(
            (node.host.as_str(), node.port, node.number),
            ("h", 7, 1),
            "{words}"
        );
    }
    let one_node = parse("--standalone --nnodes 1 p");
    assert_eq!(Node::of(&one_node, with_secret).unwrap().host, "127.0.0.1");
    assert_eq!(parse("--rdzv_id j p").job.as_deref(), Some("j"));
}

#[test]
fn an_endpoint_is_a_host_and_perhaps_a_port() {
    for (text, host, port) in [
        ("node0", "node0", None),
        ("node0:1", "node0", Some(1)),
        ("10.0.0.1:65535", "10.0.0.1", Some(65535)),
        ("[fd00::1]:29500", "fd00::1", Some(29500)),
        ("[fd00::1]", "fd00::1", None),
        ("fd00::1", "fd00::1", None),
        ("fe80::1%eth0", "fe80::1%eth0", None),
    ] {
        let host = host.to_owned();
        assert_eq!(endpoint(text), Ok(Endpoint { host, port }), "{text}");
    }
    for wrong in [
        "",
        ":1",
        "h:",
        "h:0",
        "h:65536",
        "h:x",
        "a b:1",
        "[::1",
        "[::1]1",
        "[]:1",
        "h:1:2",
        "10.0.0.1:29500:3",
    ] {
        let error = endpoint(wrong).unwrap_err();
        assert!(error.contains("HOST:PORT"), "{wrong}: {error}");
    }
}

#[test]
fn several_nodes_need_a_number_an_address_and_a_secret() {
    for (words, expected) in [
        ("--nnodes 2 p", "--node-rank, from 0 to 1"),
        ("--nnodes 2 --node-rank 0 p", "--rdzv HOST:PORT"),
        (
            "--nnodes 2 --node-rank 0 --master-port 1 p",
            "--rdzv HOST:PORT",
        ),
        (
            "--nnodes 2 --standalone --node-rank 0 p",
            "--standalone is for one node",
        ),
        (
            "--nnodes 2 --node-rank 2 --rdzv h p",
            "a number from 0 to 1, because --nnodes is 2",
        ),
        (
            "--node-rank 1 p",
            "a number from 0 to 0, because --nnodes is 1",
        ),
    ] {
        let error = Node::of(&parse(words), with_secret).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{words}");
        assert!(error.to_string().contains(expected), "{words}: {error}");
    }
    let arguments = parse("--nnodes 2 --node-rank 0 --rdzv h p");
    assert_eq!(Node::of(&arguments, with_secret).unwrap().port, PORT);
    let error = Node::of(&arguments, |_| None).unwrap_err().to_string();
    for part in [
        "openssl rand -hex 32",
        "BURN_DIST_SECRET ",
        "BURN_DIST_SECRET_FILE",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_free_port_can_be_listened_on() {
    let port = free_port().unwrap();
    assert_ne!(port, 0);
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
}

#[test]
fn secrets_are_long_and_new_each_time() {
    let (one, other) = (fresh_secret().unwrap(), fresh_secret().unwrap());
    assert_ne!(one, other);
    for secret in [one, other] {
        assert_eq!(secret.len(), 64);
        assert!(secret.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

#[test]
fn a_secret_of_the_user_is_kept() {
    let set = |chosen: &'static str, value: &'static str| {
        has_secret(move |name| (name == chosen).then(|| value.into()))
    };
    assert!(set("BURN_DIST_SECRET", "s"));
    assert!(set("BURN_DIST_SECRET_FILE", "f"));
    assert!(!set("BURN_DIST_SECRET", ""));
    assert!(!set("OTHER", "s"));
}
