//! Figures of how the code reads, counted over the checkout. None may rise.
//!
//! An area is a path prefix; the longest prefix that fits a file is its area. Lower a limit when its figure has fallen.

#![expect(clippy::expect_used, reason = "the helpers of a test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const CLAUSE_WORDS: [&str; 8] = [
    "What", "How", "Whether", "Who", "Where", "Why", "When", "Which",
];
const FUNCTION_LINES: usize = 60;
const FILE_LINES: usize = 400;

/// Type names that are defined more than once in a crate.
const SHARED_NAMES: usize = 44;

/// Public methods of `ProcessGroup`: 20 and two constructors.
const GROUP_METHODS: usize = 22;

/// Limits of one area.
struct Area {
    prefix: &'static str,
    /// Docs of items that may begin with a clause word, in tenths of a percent.
    clause_docs: usize,
    long_functions: usize,
    long_files: usize,
}

const fn area(
    prefix: &'static str,
    clause_docs: usize,
    long_functions: usize,
    long_files: usize,
) -> Area {
    Area {
        prefix,
        clause_docs,
        long_functions,
        long_files,
    }
}

/// The last area is the rest of the tree.
const AREAS: [Area; 14] = [
    area("burn-dist/cli/", 40, 0, 0),
    area("burn-dist/src/cli/", 40, 0, 0),
    area("burn-dist/src/collective/", 40, 0, 1),
    area("burn-dist/src/ddp/", 189, 2, 2),
    area("burn-dist/src/engine/", 40, 0, 0),
    area("burn-dist/src/functional/", 40, 0, 0),
    area("burn-dist/src/group/", 40, 0, 0),
    area("burn-dist/src/launch/", 40, 0, 1),
    area("burn-dist/src/net/", 40, 0, 0),
    area("burn-dist/src/rendezvous/", 40, 0, 1),
    area("burn-dist/src/shared_memory/", 40, 0, 1),
    area("burn-dist/src/transport/", 40, 0, 0),
    area("burn-dist/tests/", 40, 7, 5),
    area("", 40, 1, 3),
];

/// Counted places of one area, each as `file:line text`.
#[derive(Default)]
struct Figures {
    docs: usize,
    clause_docs: Vec<String>,
    callers: Vec<String>,
    long_functions: Vec<String>,
    long_files: Vec<String>,
}

/// Counted places of the whole tree.
#[derive(Default)]
struct Tree {
    areas: BTreeMap<usize, Figures>,
    /// Definitions by crate and type name.
    types: BTreeMap<(String, String), Vec<String>>,
    group_methods: Vec<String>,
}

#[test]
fn no_figure_of_an_area_rises() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the checkout");
    let mut tree = Tree::default();
    walk(top, top, &mut tree);
    let docs: usize = tree.areas.values().map(|figures| figures.docs).sum();
    assert!(
        docs > 1000,
        "expected the checkout's docs below {}, found {docs}",
        top.display()
    );

    let mut report = String::new();
    for (index, figures) in &tree.areas {
        figures.check(&AREAS[*index], &mut report);
    }
    let shared = tree.types.iter().filter(|(_, places)| places.len() > 1);
    let shared = shared.map(|((_, name), places)| format!("{name}: {}", places.join(", ")));
    let shared: Vec<_> = shared.collect();
    let figure = "type names defined more than once in a crate";
    over(&mut report, figure, &shared, SHARED_NAMES);
    let methods = &tree.group_methods;
    over(
        &mut report,
        "public methods of ProcessGroup",
        methods,
        GROUP_METHODS,
    );
    assert!(
        report.is_empty(),
        "figures above their limits in xtask/tests/prose.rs:\n{report}"
    );
}

impl Figures {
    fn check(&self, area: &Area, report: &mut String) {
        let name = match area.prefix {
            "" => "the rest of the tree",
            prefix => prefix,
        };
        let mut check = |what: &str, places: &[String], limit: usize| {
            over(report, &format!("{name}: {what}"), places, limit);
        };
        let clause_docs = self.docs * area.clause_docs / 1000;
        let what = format!("docs that begin with a clause word, of {}", self.docs);
        check(&what, &self.clause_docs, clause_docs);
        check("`Callers:` lines", &self.callers, 0);
        let what = format!("functions of more than {FUNCTION_LINES} lines");
        check(&what, &self.long_functions, area.long_functions);
        let what = format!("files of more than {FILE_LINES} lines");
        check(&what, &self.long_files, area.long_files);
    }
}

/// Appends a figure and its places to the report, if it is above its limit.
fn over(report: &mut String, figure: &str, places: &[String], limit: usize) {
    if places.len() > limit {
        let _ = writeln!(
            report,
            "{figure}: expected at most {limit}, got {}",
            places.len()
        );
        for place in places {
            let _ = writeln!(report, "    {place}");
        }
    }
}

/// Counts every Rust file below `folder`, except build outputs and hidden folders.
fn walk(top: &Path, folder: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(folder).expect("a folder of the checkout can be read") {
        let path = entry.expect("an entry of the checkout can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(top, &path, tree);
            }
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).expect("a source file is text");
            let relative = path.strip_prefix(top).expect("below the checkout");
            tree.count(&relative.to_string_lossy().replace('\\', "/"), &text);
        }
    }
}

impl Tree {
    fn count(&mut self, file: &str, text: &str) {
        let area = (0..AREAS.len())
            .filter(|&index| file.starts_with(AREAS[index].prefix))
            .max_by_key(|&index| AREAS[index].prefix.len())
            .expect("the rest takes every file");
        let figures = self.areas.entry(area).or_default();
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES {
            figures
                .long_files
                .push(format!("{file}:1 {} lines", lines.len()));
        }
        let mut in_doc = false;
        for (index, line) in lines.iter().enumerate() {
            let place = format!("{file}:{}", index + 1);
            let doc = line.trim_start().strip_prefix("///").map(str::trim_start);
            if let Some(doc) = doc.filter(|_| !in_doc) {
                figures.docs += 1;
                if CLAUSE_WORDS.contains(&word(doc)) {
                    figures.clause_docs.push(format!("{place} {doc}"));
                }
            }
            in_doc = doc.is_some();
            if is_callers_line(line) {
                figures.callers.push(place.clone());
            }
            if let Some((name, length)) =
                function(&lines[index..]).filter(|(_, length)| *length > FUNCTION_LINES)
            {
                figures
                    .long_functions
                    .push(format!("{place} {name}: {length} lines"));
            }
        }
        self.count_types(file, &lines);
        self.count_group_methods(file, &lines);
    }

    /// Notes the types that a file outside of tests defines.
    fn count_types(&mut self, file: &str, lines: &[&str]) {
        let is_test = ["/tests/", "/fuzz"].iter().any(|part| file.contains(part))
            || file.ends_with("/tests.rs");
        let package = file
            .split("/src/")
            .next()
            .and_then(|file| file.split("/benches/").next());
        for (index, line) in lines.iter().enumerate().filter(|_| !is_test) {
            let Some((kind, rest)) = without_visibility(line.trim_start()).split_once(' ') else {
                continue;
            };
            // An indented `type` belongs to a trait.
            let is_type = ["struct", "enum", "trait", "union"].contains(&kind);
            if is_type || kind == "type" && !line.starts_with(' ') {
                let key = (package.unwrap_or(file).to_string(), word(rest).to_string());
                self.types
                    .entry(key)
                    .or_default()
                    .push(format!("{file}:{}", index + 1));
            }
        }
    }

    fn count_group_methods(&mut self, file: &str, lines: &[&str]) {
        let mut in_group = false;
        for (index, line) in lines.iter().enumerate() {
            if line.starts_with("impl") {
                in_group = line.contains(" ProcessGroup") && !line.contains(" for ");
            } else if *line == "}" {
                in_group = false;
            }
            let public = line
                .trim_start()
                .strip_prefix("pub ")
                .map(|rest| rest.trim_start_matches("const "));
            if let Some(name) = public
                .and_then(|rest| rest.strip_prefix("fn "))
                .filter(|_| in_group)
            {
                self.group_methods
                    .push(format!("{file}:{} {}", index + 1, word(name)));
            }
        }
    }
}

/// The name and the number of lines of the function whose signature begins in the first line.
fn function<'t>(lines: &[&'t str]) -> Option<(&'t str, usize)> {
    let first = lines[0];
    let mut rest = without_visibility(first.trim_start());
    while let Some(after) = ["const ", "async ", "unsafe ", "extern \"C\" "]
        .iter()
        .find_map(|word| rest.strip_prefix(word))
    {
        rest = after;
    }
    let name = word(rest.strip_prefix("fn ")?);
    let head = lines
        .iter()
        .position(|line| line.trim_end().ends_with([';', '{', '}']))?;
    if !lines[head].trim_end().ends_with('{') {
        return None;
    }
    let indent = &first[..first.len() - first.trim_start().len()];
    let end = lines
        .iter()
        .position(|line| line.strip_prefix(indent) == Some("}"))?;
    Some((name, end + 1))
}

/// A line without its leading `pub` or `pub(…)`.
fn without_visibility(line: &str) -> &str {
    match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ").map_or(line, |(_, rest)| rest),
        Some(rest) if rest.starts_with(' ') => rest.trim_start(),
        _ => line,
    }
}

/// The leading word of a text.
fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default()
}

fn is_callers_line(line: &str) -> bool {
    let comment = line
        .trim_start()
        .strip_prefix("//")
        .map(|rest| rest.trim_start_matches(['/', '!']).trim_start());
    comment.is_some_and(|text| text.starts_with("Callers:") || text.starts_with("Caller:"))
}
