use super::*;
use clap::{CommandFactory, Parser};

#[derive(Parser, Debug)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
}

fn parse(flags: &str) -> Result<Arguments, clap::Error> {
    let words = std::iter::once("bench").chain(flags.split_whitespace());
    Program::try_parse_from(words).map(|program| program.arguments)
}

#[test]
fn without_arguments_everything_is_timed() {
    let all = parse("").unwrap();
    all.check().unwrap();
    assert_eq!(all.benches().len(), 8);
    assert_eq!(all.places(Bench::AllReduce).len(), 6);
    assert_eq!(all.places(Bench::Loader), [(Layout::Threads, 2)]);
    assert_eq!(all.places(Bench::Startup).len(), 3);
    assert_eq!(all.sizes(Bench::AllReduce).len(), 6);
    assert_eq!(all.sizes(Bench::Growth).len(), 3);
    assert_eq!(all.places(Bench::Growth).len(), 6);
    assert!(all.prepare_peers().is_ok_and(|(ready, _)| ready.is_empty()));
}

#[test]
fn what_is_wanted_is_timed_once() {
    let some = parse("all-reduce --layout processes --ranks 4,2,4 --sizes 8,1024,8").unwrap();
    let place = |ranks| (Layout::Processes, ranks);
    assert_eq!(some.places(Bench::AllReduce), [place(2), place(4)]);
    assert_eq!(some.sizes(Bench::AllReduce), [8, 1024]);
}

#[test]
fn wrong_values_are_usage_errors() {
    for wrong in [
        "all-reduc",
        "all-reduce overlap",
        "--ranks 0",
        "--ranks 2,x",
        "--sizes 0",
        "--sizes 1023",
        "--sizes 2147483648",
        "--sizes -4",
        "--rounds 0",
        "--budget 0",
        "--budget nan",
        "--deadline 0",
        "--layout machines",
        "--plot x.png",
        "--python /usr/bin/python3",
        "--unknown",
    ] {
        let error = parse(wrong).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong}");
    }
}

#[test]
fn flags_that_would_be_ignored_are_usage_errors() {
    for wrong in [
        "ddp-step --sizes 8",
        "loader --layout processes",
        "startup --layout threads",
    ] {
        let error = parse(wrong).unwrap().check().unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{wrong}: {error}");
        assert_eq!(error.exit_code(), ExitCode::from(2));
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_anything_runs() {
    let error = parse("--json /no/such/folder/x.json")
        .unwrap()
        .check()
        .unwrap_err();
    assert!(
        error.to_string().contains("/no/such/folder/x.json"),
        "{error}"
    );
}

#[test]
fn help_explains_every_flag_with_its_default() {
    let command = Program::command();
    for arg in command
        .get_arguments()
        .filter(|arg| arg.get_long() != Some("help"))
    {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.len() > 10, "{arg}: no explanation");
        let switch = !arg.get_action().takes_values();
        let default = !arg.get_default_values().is_empty() || help.contains("[default: ");
        assert!(switch || default, "{arg}: no default");
    }
}
