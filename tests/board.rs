//! The Grafana board and the alerts of `examples/dashboard` name only metrics and labels that a registry writes.

use buttress::Quota;
use buttress::http::{Authority, stack};
use buttress::observe::Registry;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

const BOARD: &str = include_str!("../examples/dashboard/grafana.json");
const ALERTS: &str = include_str!("../examples/dashboard/alerts.yaml");

/// The metrics of a registry with every layer, each with its labels and their values.
fn written() -> HashMap<String, HashMap<String, HashSet<String>>> {
    let registry = Registry::new();
    let stack = || {
        stack()
            .name("orders")
            .load_shed(1)
            .rate_limit(Quota::per_second(1))
    };
    let _whole = stack().registered(&registry).build().unwrap();
    let keyed = stack().per_key(Authority).build().unwrap();
    registry.add(&keyed);
    let mut metrics: HashMap<String, HashMap<String, HashSet<String>>> = HashMap::new();
    for line in registry
        .text()
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (metric, labels) = series.split_once('{').unwrap_or((series, ""));
        let known = metrics.entry(metric.to_owned()).or_default();
        for label in labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty())
        {
            let (label, value) = label.split_once('=').unwrap();
            let values = known.entry(label.to_owned()).or_default();
            values.insert(value.trim_matches('"').to_owned());
        }
    }
    metrics
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Checks each `metric{label="value",…}` of a query, and returns how many metrics it names.
fn check(query: &str) -> usize {
    let metrics = written();
    let mut found = 0;
    for (start, _) in query.match_indices("buttress_") {
        let rest = &query[start..];
        let (metric, rest) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        let labels = metrics
            .get(metric)
            .unwrap_or_else(|| panic!("{metric} is not written: {query}"));
        found += 1;
        let Some(matchers) = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next())
        else {
            continue;
        };
        for matcher in matchers
            .split("\",")
            .map(|matcher| matcher.trim_end_matches('"'))
        {
            let (label, values) = matcher.split_once('"').unwrap();
            let values_of = labels.get(label.trim_end_matches(['=', '!', '~']));
            let known = values_of.unwrap_or_else(|| panic!("{metric} has no {label}: {query}"));
            for value in values.split('|').filter(|value| !value.starts_with('$')) {
                assert!(
                    known.contains(value),
                    "{metric} has no {label}{value}: {query}"
                );
            }
        }
    }
    let grouped = query.split("by (").skip(1);
    for label in grouped.flat_map(|rest| rest.split(')').next().unwrap().split(", ")) {
        let known = metrics
            .iter()
            .any(|(metric, labels)| query.contains(metric) && labels.contains_key(label));
        assert!(known, "no metric has {label}: {query}");
    }
    found
}

#[test]
fn every_panel_of_the_board_names_metrics_and_labels_that_are_written() {
    let board: Value = serde_json::from_str(BOARD).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert_eq!(panels.len(), 12);
    let mut ids = HashSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert!(check(target["expr"].as_str().unwrap()) > 0, "{target}");
        }
    }
    let variables = board["templating"]["list"].as_array().unwrap();
    let queries = variables
        .iter()
        .map(|variable| variable["query"].as_str().unwrap());
    assert_eq!(queries.map(check).sum::<usize>(), 1);
}

#[test]
fn every_alert_names_metrics_and_labels_that_are_written() {
    let (_, rules) = ALERTS.split_once("rules:").unwrap();
    assert_eq!(rules.matches("- alert:").count(), 3);
    assert_eq!(check(rules), 5);
}

#[test]
#[should_panic(expected = "has no state")]
fn a_value_of_a_label_that_is_not_written_is_found() {
    check("buttress_circuit_state{name=\"$name\",state=\"ajar\"}");
}

#[test]
#[should_panic(expected = "is not written")]
fn a_metric_that_is_not_written_is_found() {
    check("rate(buttress_calls_total[5m])");
}
