//! The README is the front page on code hosts, in the registry and in rustdoc.

use std::fs;

const README: &str = include_str!("../README.md");

/// The README without its code blocks.
fn prose() -> String {
    let parts = README.split("```").step_by(2);
    parts.collect::<Vec<_>>().concat()
}

/// The name that code hosts, the registry and rustdoc give to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The targets of the links in some Markdown.
fn links(markdown: &str) -> Vec<&str> {
    let mut links: Vec<&str> = Vec::new();
    for rest in markdown.split("](").skip(1) {
        links.extend(rest.split(')').next());
    }
    for line in markdown.lines().filter(|line| line.starts_with('[')) {
        links.extend(line.split_once("]: ").map(|(_, target)| target));
    }
    links
}

/// Why a link does not work in all three places.
fn broken(link: &str, headings: &[String]) -> Option<String> {
    let works = match link.strip_prefix('#') {
        Some(anchor) => headings.iter().any(|heading| heading == anchor),
        None => link.starts_with("https://"),
    };
    (!works).then(|| format!("{link}: neither absolute nor a heading of this page"))
}

#[test]
fn every_link_works_on_a_code_host_in_the_registry_and_in_rustdoc() {
    let prose = prose();
    let headings = prose.lines().filter_map(|line| line.strip_prefix("## "));
    let headings: Vec<String> = headings.map(anchor).collect();
    let links = links(&prose);
    assert!(!links.is_empty());
    for link in links {
        assert_eq!(broken(link, &headings), None);
    }
    // A bracket without a target is a link in rustdoc, and text everywhere else.
    assert!(!prose.contains("`]"), "a link of rustdoc's own kind");
}

#[test]
fn links_that_work_in_one_place_only_are_found() {
    let headings = [anchor("What it costs")];
    let markdown = "[a](src/lib.rs) [b](#what-it-costs) [c](#nowhere)\n[d]: crate::retry\n";
    let links = links(markdown);
    assert_eq!(
        links,
        ["src/lib.rs", "#what-it-costs", "#nowhere", "crate::retry"]
    );
    let broken = links
        .into_iter()
        .filter(|link| broken(link, &headings).is_some());
    assert_eq!(
        broken.collect::<Vec<_>>(),
        ["src/lib.rs", "#nowhere", "crate::retry"]
    );
}

#[test]
fn it_has_at_most_200_lines() {
    assert!(README.lines().count() <= 200);
}

#[test]
fn every_recipe_stands_in_its_example() {
    let (_, recipes) = README.split_once("## Recipes").expect("there are recipes");
    let (recipes, _) = recipes
        .split_once("\n## ")
        .expect("they are not the last section");
    let mut parts = recipes.split("```");
    let mut found = 0;
    while let (Some(words), Some(code)) = (parts.next(), parts.next()) {
        let name = words
            .rsplit("(`")
            .next()
            .and_then(|rest| rest.split('`').next());
        let path = format!("examples/{}.rs", name.expect("a recipe names its example"));
        let example = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let example: Vec<&str> = example.lines().map(str::trim).collect();
        let code = code
            .strip_prefix("rust,ignore\n")
            .expect("a recipe is Rust");
        let code: Vec<&str> = code.lines().map(str::trim).collect();
        let stands = example.windows(code.len()).any(|lines| lines == code);
        assert!(stands, "{path} has no such lines: {code:#?}");
        found += 1;
    }
    assert_eq!(found, 8);
}
