use super::*;
use clap::{CommandFactory, Parser};

#[derive(Parser, Debug)]
struct Cli {
    #[command(flatten)]
    arguments: Arguments,
}

fn parse(flags: &[&str]) -> Result<Options, clap::Error> {
    let flags = std::iter::once("doctor").chain(flags.iter().copied());
    Cli::try_parse_from(flags).map(|cli| cli.arguments.options)
}

fn call(flags: &[&str]) -> String {
    let options = parse(flags).unwrap();
    let program = Program {
        name: "doctor",
        job: &options.job,
        features: &[],
        flags: self::flags(&options),
    };
    program.call(Backend::Cpu).to_string()
}

#[test]
fn defaults() {
    let expected = "cargo run --release --package examples --bin doctor --no-default-features \
                    --features flex -- --backend auto --gpus 1 --batch-size 16 --timeout 60";
    assert_eq!(call(&[]), expected);
}

#[test]
fn every_flag_reaches_the_program() {
    let given = "--backend cpu --gpus 3 --interface ib0 --tls-cert c.pem --tls-key c.key --tls-ca ca.pem \
                 --tls-name job --oversubscribe --batch-size 8 --timeout 9 --bucket-cap-mb 2.5 --json r.json";
    let flags: Vec<_> = given.split_whitespace().collect();
    let call = call(&flags);
    let (chosen, passed) = call.split_once(" -- ").unwrap();
    assert_eq!(passed, flags.join(" "));
    assert!(chosen.ends_with("--features flex,tls"), "{chosen}");
}

#[test]
fn wrong_values_are_usage_errors() {
    for wrong in [
        &["--gpus", "0"][..],
        &["--nodes", "0"],
        &["--backend", "tpu"],
        &["--batch-size", "0"],
        &["--timeout", "0"],
        &["--timeout", "-1"],
        &["--bucket-cap-mb", "0"],
        &["--bucket-cap-mb", "-1"],
        &["--bucket-cap-mb", "NaN"],
        &["--bucket-cap-mb", "inf"],
        &["--bucket-cap-mb", "large"],
        &["--master-port", "0"],
        &["--master-port", "65536"],
        &["--tls-cert", "c"],
        &["--json"],
        &["--epochs", "2"],
        &["stray"],
    ] {
        let error = parse(wrong).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong:?}");
    }
}

#[test]
fn help_explains_every_flag_with_its_default() {
    let command = Cli::command();
    for arg in command
        .get_arguments()
        .filter(|arg| arg.get_long() != Some("help"))
    {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.len() > 10, "{arg}: no explanation");
        let default = !arg.get_default_values().is_empty() && arg.get_action().takes_values();
        assert!(default || help.contains("[default: "), "{arg}: no default");
    }
}

#[test]
fn the_flag_goes_before_the_variable() {
    let variable = |text: &str| Some(OsString::from(text));
    assert_eq!(chosen_port(None, None).unwrap(), None);
    assert_eq!(chosen_port(None, variable("29600")).unwrap(), Some(29600));
    assert_eq!(chosen_port(Some(1), variable("odd")).unwrap(), Some(1));
    for odd in ["", "0", "-1", "65536", "http"] {
        let error = chosen_port(None, variable(odd)).unwrap_err().to_string();
        assert!(
            error.contains("MASTER_PORT") && error.contains("1 to 65535"),
            "{error}"
        );
    }
}

#[test]
fn a_port_is_taken_while_somebody_listens_anywhere() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = try_port(port).unwrap_err().to_string();
    assert!(
        error.contains(&port.to_string()) && error.contains("--master-port"),
        "{error}"
    );
}
