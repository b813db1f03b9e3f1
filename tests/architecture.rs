//! The rules of ARCHITECTURE.md, checked against the `use` lines of the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the lowest level up. A module may use modules of its own level and of those below.
const FLOORS: &[&[&str]] = &[
    &["time", "chance", "sync", "name", "spare"],
    &["error", "verdict", "deadline", "secret"],
    &["event"],
    &["metrics"],
    &["gate", "keyed", "budget", "replay"],
    &LAYERS,
    &["chaos", "fallback", "fleet", "hedge"],
    &["observe"],
    &["http", "grpc"],
    &["http/stack"],
    &["guide"],
];

/// The layers. They never use each other.
const LAYERS: [&str; 5] = [
    "timeout",
    "retry",
    "circuit_breaker",
    "rate_limit",
    "load_shed",
];

/// Pure decisions: they receive the time and the random draw as arguments, and use no futures,
/// clocks or events.
const CORES: &[&str] = &[
    "circuit_breaker/breaker.rs",
    "circuit_breaker/count_window.rs",
    "circuit_breaker/row.rs",
    "circuit_breaker/state.rs",
    "circuit_breaker/time_window.rs",
    "circuit_breaker/window.rs",
    "hedge/quantile.rs",
    "keyed/shard.rs",
    "load_shed/slots.rs",
    "rate_limit/gcra.rs",
    "rate_limit/demand.rs",
    "rate_limit/lease.rs",
    "rate_limit/leases.rs",
    "rate_limit/ledger.rs",
    "rate_limit/quota.rs",
    "rate_limit/quotas/core.rs",
    "rate_limit/quotas/slack.rs",
    "retry/backoff.rs",
];

const NOT_IN_A_CORE: &[&str] = &[
    "std::task",
    "std::future",
    "tower",
    "tokio",
    "tracing",
    "rand",
    "crate::event",
    "Timeline",
    "Instant",
];

/// The sources without tests and comments, by path relative to `src`.
fn sources() -> BTreeMap<String, String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
        (
            name.replace('\\', "/"),
            code(&fs::read_to_string(&path).unwrap()),
        )
    };
    let sources = found.into_iter().map(read);
    // The reference implementation and the models of the circuit breaker are tests.
    sources
        .filter(|(name, _)| {
            !name.ends_with("reference.rs")
                && !name.ends_with("models.rs")
                && !name.ends_with("_test.rs")
        })
        .collect()
}

fn code(text: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let tests = line.starts_with("#[cfg(all(test") || line.starts_with("#[cfg(test");
        if tests && lines.peek().is_some_and(|next| next.ends_with('{')) {
            break; // tests and models are at the end of the file
        }
        if !line.trim().is_empty() && !line.trim_start().starts_with("//") {
            kept.push(line);
        }
    }
    kept.join("\n")
}

/// The modules of this crate that `code` uses.
fn used(code: &str) -> Vec<&str> {
    // Exported macros name the crate `$crate`.
    let paths = code.split("crate::").skip(1);
    let name = |path: &str| path.find(|c: char| !c.is_alphanumeric() && c != '_');
    paths
        .map(|path| &path[..name(path).unwrap_or(path.len())])
        .collect()
}

fn module(file: &str) -> &str {
    if file.starts_with("http/stack") {
        return "http/stack";
    }
    file.split(['/', '.']).next().unwrap()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

#[test]
fn a_module_uses_only_what_lies_below_it() {
    for (file, code) in sources() {
        let here = module(&file);
        if here == "lib" {
            continue;
        }
        let height = floor(here).unwrap_or_else(|| panic!("{file}: on which floor is {here}?"));
        for there in used(&code) {
            // Items of the crate root must be imported from their module.
            let below = floor(there).unwrap_or_else(|| panic!("{file}: what is crate::{there}?"));
            assert!(below <= height, "{file} uses {there}, which lies above it");
        }
    }
}

#[test]
fn layers_never_use_each_other() {
    for (file, code) in sources() {
        let here = module(&file);
        if LAYERS.contains(&here) {
            for there in used(&code) {
                let layer = LAYERS.contains(&there);
                assert!(!layer || there == here, "{file} uses {there}");
            }
        }
    }
}

#[test]
fn a_core_uses_no_futures_clocks_or_events() {
    let sources = sources();
    for core in CORES {
        let code = &sources[*core];
        for forbidden in NOT_IN_A_CORE {
            assert!(!code.contains(forbidden), "{core} uses {forbidden}");
        }
    }
}

#[test]
fn no_file_has_more_than_400_lines_of_code() {
    for (file, code) in sources() {
        let lines = code.lines().count();
        assert!(lines <= 400, "{file}: {lines}");
    }
}
