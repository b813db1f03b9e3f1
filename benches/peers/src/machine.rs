//! The machine of this run, and the versions that were compared.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

pub fn setting() -> String {
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc = rustc.map_or_else(
        |_| "rustc of unknown version".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    let cores = available_parallelism().map_or(0, usize::from);
    let mut versions: Vec<String> = COMPARED.iter().filter_map(|name| version(name)).collect();
    versions.sort();
    format!(
        "{}, {cores} cores, {} {}, {rustc}; {}.\n",
        processor(),
        std::env::consts::ARCH,
        std::env::consts::OS,
        versions.join(", ")
    )
}

/// The first processor in `/proc/cpuinfo`. Virtual machines often hide the model's name, but not
/// its numbers.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        let mut fields = lines.map(|(field, value)| (field.trim(), value.trim()));
        let found = fields.find(|(field, _)| *field == name);
        found.map_or("unknown", |(_, value)| value)
    };
    let [name, family, model] = ["model name", "cpu family", "model"].map(field);
    format!("processor {name} (family {family}, model {model})")
}

const COMPARED: [&str; 12] = [
    "buttress",
    "failsafe",
    "governor",
    "recloser",
    "seatbelt",
    "tokio",
    "tower",
    "tower-resilience-bulkhead",
    "tower-resilience-circuitbreaker",
    "tower-resilience-ratelimiter",
    "tower-resilience-retry",
    "tower-resilience-timelimiter",
];

/// The version in the lock file.
fn version(name: &str) -> Option<String> {
    let lock = include_str!("../Cargo.lock");
    let package = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = lock.split_once(&package)?;
    let (version, _) = rest.split_once('"')?;
    Some(format!("{name} {version}"))
}
