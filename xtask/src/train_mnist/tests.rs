use super::*;
use crate::cargo::Call;
use crate::machine::Backend;
use clap::{CommandFactory, Parser};

#[derive(Parser, Debug)]
struct Cli {
    #[command(flatten)]
    arguments: Arguments,
}

fn parse(flags: &[&str]) -> Result<Options, clap::Error> {
    let flags = std::iter::once("train-mnist").chain(flags.iter().copied());
    Cli::try_parse_from(flags).map(|cli| cli.arguments.options)
}

fn call(options: &Options, backend: Backend) -> Call {
    program(options).call(backend)
}

fn words(flags: &[&str], backend: Backend) -> Vec<String> {
    let call = call(&parse(flags).unwrap(), backend);
    call.args()
        .iter()
        .map(|arg| arg.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn defaults() {
    let expected = "run --release --package examples --bin mnist --no-default-features --features flex \
                    -- --backend auto --gpus 1 --epochs 6 --batch-size 16 --lr 0.03 --seed 42 \
                    --output runs/mnist";
    assert_eq!(words(&[], Backend::Cpu).join(" "), expected);
}

#[test]
fn every_flag_reaches_the_program() {
    let flags = "--gpus 4 --backend wgpu --epochs 2 --batch-size 32 --lr 0.005 --seed 7 --data-dir d/m \
                 --output o --report r.json --interface ib0 --job j --join-timeout 90 --heartbeat 0.5 --collective-timeout 60 --records q --checkpoint c --checkpoint-every 7 \
                 --keep 2 --resume --trace t.json --log-dir l --metrics 9090 --oversubscribe --tls-cert c.pem --tls-key c.key \
                 --tls-ca ca.pem --tls-name job";
    let flags: Vec<_> = flags.split_whitespace().collect();
    let words = words(&flags, Backend::Wgpu);
    let split = words.iter().position(|word| word == "--").unwrap();
    let passed = words[split + 1..].join(" ");
    assert_eq!(
        passed,
        "--backend wgpu --gpus 4 --interface ib0 --job j --join-timeout 90 --heartbeat 0.5 \
         --collective-timeout 60 --tls-cert c.pem --tls-key c.key --tls-ca ca.pem \
         --tls-name job --oversubscribe --epochs 2 --batch-size 32 --lr 0.005 --seed 7 --output o \
         --data-dir d/m --report r.json --records q --checkpoint c --checkpoint-every 7 --keep 2 --resume \
         --trace t.json --log-dir l --metrics 9090"
    );
    // What the program gets are flags that xtask knows too, with the same meaning.
    let again = parse(
        &words[split + 1..]
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    )
    .unwrap();
    assert_eq!(
        call(&again, Backend::Wgpu),
        call(&parse(&flags).unwrap(), Backend::Wgpu)
    );
}

#[test]
fn what_is_built_is_what_would_be_run() {
    let options = parse(&["--download", "--gpus", "2"]).unwrap();
    let run = call(&options, Backend::Cuda).to_string();
    let build = program(&options).build_call(Backend::Cuda).to_string();
    let (run, flags) = run.split_once(" -- ").unwrap();
    let chosen = run.strip_prefix("cargo run ").unwrap();
    let format = "--message-format=json-render-diagnostics";
    assert_eq!(build, format!("cargo build {chosen} {format}"));
    assert!(flags.starts_with("--backend auto --gpus 2 "), "{flags}");
}

#[test]
fn features_follow_the_backend() {
    let features = |flags: &[&str], backend| {
        let words = words(flags, backend);
        let at = words.iter().position(|word| word == "--features").unwrap();
        words[at + 1].clone()
    };
    assert_eq!(features(&[], Backend::Cpu), "flex");
    assert_eq!(features(&[], Backend::Wgpu), "flex,wgpu");
    assert_eq!(features(&[], Backend::Cuda), "flex,cuda");
    assert_eq!(features(&["--download"], Backend::Cpu), "flex,download");
    assert_eq!(
        features(&["--download"], Backend::Cuda),
        "flex,cuda,download"
    );
    let tls = "--tls-cert c --tls-key k --tls-ca a";
    let tls: Vec<_> = tls.split(' ').collect();
    assert_eq!(features(&tls, Backend::Cpu), "flex,tls");
    assert!(words(&["--download"], Backend::Cpu).ends_with(&["--download".to_owned()]));
}

#[test]
fn wrong_values_are_usage_errors() {
    for wrong in [
        &["--gpus", "0"][..],
        &["--gpus", "-1"],
        &["--nodes", "0"],
        &["--gpus", "many"],
        &["--epochs", "0"],
        &["--batch-size", "0"],
        &["--lr", "0"],
        &["--lr", "-0.1"],
        &["--lr", "NaN"],
        &["--lr", "inf"],
        &["--seed", "-1"],
        &["--backend", "tpu"],
        &["--heartbeat", "0"],
        &["--join-timeout", "5m"],
        &["--collective-timeout", "inf"],
        &["--data-dir", "d", "--download"],
        &["--resume"],
        &["--keep", "2"],
        &["--checkpoint-every", "7"],
        &["--checkpoint", "c", "--keep", "0"],
        &["--checkpoint", "c", "--checkpoint-every", "0"],
        &["--tls-cert", "c"],
        &["--tls-cert", "c", "--tls-key", "k"],
        &["--tls-key", "k", "--tls-ca", "a"],
        &["--tls-name", "n"],
        &["--unknown"],
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

#[cfg(unix)]
#[test]
fn paths_need_not_be_utf_8() {
    use std::os::unix::ffi::OsStringExt;
    let path = std::ffi::OsString::from_vec(vec![b'a', 0xFF]);
    let flags = ["train-mnist".into(), "--report".into(), path.clone()];
    let options = Cli::try_parse_from(flags).unwrap().arguments.options;
    assert!(call(&options, Backend::Cpu).args().contains(&path));
}
