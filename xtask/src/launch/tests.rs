use super::*;
use clap::Parser;

#[derive(Parser, Debug)]
struct Program {
    #[command(flatten)]
    options: Options,
}

fn variables(command: &Command) -> Vec<(&str, &str)> {
    command
        .get_envs()
        .map(|(name, value)| (name.to_str().unwrap(), value.unwrap().to_str().unwrap()))
        .collect()
}

#[test]
fn what_follows_the_dashes_is_the_program_s() {
    let words = "launch --nodes 2 -- mnist --gpus 2 --nodes 3 -- -x";
    let options = Program::try_parse_from(words.split(' ')).unwrap().options;
    assert_eq!(
        options.command,
        ["mnist", "--gpus", "2", "--nodes", "3", "--", "-x"]
    );
    assert_eq!((options.nodes, options.gpus_per_node), (2, 1));
}

#[test]
fn each_process_is_told_its_place() {
    let launch = Launch {
        program: OsStr::new("program"),
        args: &["argument".into()],
        nodes: 3,
        devices: 2,
        address: Ipv4Addr::LOCALHOST.into(),
        port: Some(29500),
    };
    let commands = launch.commands().unwrap();
    assert_eq!(commands.len(), 3);
    for (rank, command) in commands.iter().enumerate() {
        assert_eq!(command.get_program(), "program");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["argument"]);
        let rank = rank.to_string();
        for expected in [
            ("RANK", rank.as_str()),
            ("LOCAL_RANK", rank.as_str()),
            ("WORLD_SIZE", "3"),
            ("LOCAL_WORLD_SIZE", "3"),
            ("LOCAL_DEVICES", "2"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", "29500"),
        ] {
            assert!(variables(command).contains(&expected), "{expected:?}");
        }
    }
}

#[test]
fn a_free_port_can_be_listened_on() {
    let port = free_port(Ipv4Addr::LOCALHOST.into()).unwrap();
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
fn a_secret_of_the_user_s_is_kept() {
    let set = |chosen: &'static str, value: &'static str| {
        has_secret(move |name| (name == chosen).then(|| value.into()))
    };
    assert!(set("BURN_DIST_SECRET", "s"));
    assert!(set("BURN_DIST_SECRET_FILE", "f"));
    assert!(!set("BURN_DIST_SECRET", ""));
    assert!(!set("OTHER", "s"));
}
