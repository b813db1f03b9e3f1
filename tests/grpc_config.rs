//! The service config of gRPC (gRFC A6): what it accepts, and what its calls then do.

#![cfg(feature = "grpc-config")]

use buttress::Deadline;
use buttress::circuit_breaker::CircuitState;
use buttress::grpc::{self, ServiceConfig};
use buttress::http::ReplayBody;
use buttress::retry::Budget;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

const POLICY: &str = r#"{
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "0.3s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]
}"#;

/// A config for all methods, with a policy in which `from` is replaced by `to`.
fn with_policy(from: &str, to: &str) -> String {
    assert!(POLICY.contains(from), "{from}");
    let policy = POLICY.replace(from, to);
    format!(r#"{{"methodConfig": [{{"name": [{{}}], "retryPolicy": {policy}}}]}}"#)
}

// Reading

fn error(text: &str) -> String {
    match ServiceConfig::from_json(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_the_proposal_allows_is_accepted() {
    for text in [
        "{}",
        r#"{"methodConfig": null, "retryThrottling": null}"#,
        r#"{"methodConfig": []}"#,
        r#"{"methodConfig": [{}]}"#,
        r#"{"loadBalancingPolicy": "round_robin", "methodConfig": [{"name": [{}], "waitForReady": true}]}"#,
        r#"{"methodConfig": [{"name": [{"service": "a.B"}, {"service": "a.B", "method": "C"}, {}]}]}"#,
        r#"{"methodConfig": [{"name": [{"service": ""}], "timeout": "0s"}]}"#,
        r#"{"retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.001}}"#,
        r#"{"retryThrottling": {"maxTokens": 10.0, "tokenRatio": 1.6}}"#,
        &with_policy("4", "4"),
        &with_policy("4", "9"),
        &with_policy("4", "2.0"),
        &with_policy("2", "0.5"),
        &with_policy("0.1s", "7s"),
        &with_policy(r#""UNAVAILABLE""#, r#""unavailable", 14, "Aborted", 1, 16"#),
        &with_policy("\"maxAttempts\"", "\"more\": {}, \"maxAttempts\""),
    ] {
        assert!(ServiceConfig::from_json(text).is_ok(), "{text}");
    }
}

#[test]
fn an_error_names_the_path_the_value_and_what_is_allowed() {
    let policy = "methodConfig[0].retryPolicy";
    let attempts = "must be an integer of at least 2";
    let positive = "must be more than 0 s";
    let duration = "must be a string such as \"1.5s\", not negative";
    let code = "must be a code of a failure, by its name or as 1 to 16";
    let codes = r#"["UNAVAILABLE"]"#;
    for (from, to, expected) in [
        ("4", "1", format!("maxAttempts {attempts}, but is 1")),
        ("4", "0", format!("maxAttempts {attempts}, but is 0")),
        ("4", "-4", format!("maxAttempts {attempts}, but is -4")),
        ("4", "2.5", format!("maxAttempts {attempts}, but is 2.5")),
        (
            "4",
            "\"4\"",
            format!("maxAttempts {attempts}, but is \"4\""),
        ),
        (
            "4",
            "null",
            "maxAttempts must be set, but is missing".into(),
        ),
        (
            "0.1s",
            "0s",
            format!("initialBackoff {positive}, but is \"0s\""),
        ),
        (
            "0.1s",
            "-1s",
            format!("initialBackoff {duration}, but is \"-1s\""),
        ),
        (
            "0.3s",
            "0.0s",
            format!("maxBackoff {positive}, but is \"0.0s\""),
        ),
        (
            "0.3s",
            "1h",
            format!("maxBackoff {duration}, but is \"1h\""),
        ),
        ("\"0.3s\"", "3", format!("maxBackoff {duration}, but is 3")),
        (
            ": 2",
            ": 0",
            "backoffMultiplier must be a number above 0, but is 0".into(),
        ),
        (
            ": 2",
            ": -1",
            "backoffMultiplier must be a number above 0, but is -1".into(),
        ),
        (
            ": 2",
            ": \"2\"",
            "backoffMultiplier must be a number above 0, but is \"2\"".into(),
        ),
        (
            codes,
            "[]",
            "retryableStatusCodes must be a list of at least one code, but is []".into(),
        ),
        (
            codes,
            "14",
            "retryableStatusCodes must be a list, but is 14".into(),
        ),
        (
            codes,
            "[14, \"LATE\"]",
            format!("retryableStatusCodes[1] {code}, but is \"LATE\""),
        ),
        (
            codes,
            "[17]",
            format!("retryableStatusCodes[0] {code}, but is 17"),
        ),
        (
            codes,
            "[\"OK\"]",
            format!("retryableStatusCodes[0] {code}, but is \"OK\""),
        ),
        (
            codes,
            "[-1]",
            format!("retryableStatusCodes[0] {code}, but is -1"),
        ),
    ] {
        assert_eq!(
            error(&with_policy(from, to)),
            format!("{policy}.{expected}")
        );
    }
}

#[test]
fn an_error_names_the_path_of_a_missing_field_and_of_other_fields() {
    for field in [
        "initialBackoff",
        "maxBackoff",
        "backoffMultiplier",
        "retryableStatusCodes",
    ] {
        let expected = format!("methodConfig[0].retryPolicy.{field} must be set, but is missing");
        assert_eq!(error(&with_policy(field, "another")), expected);
    }
    for (text, expected) in [
        ("[]", "service config must be an object, but is []"),
        (
            r#"{"methodConfig": {}}"#,
            "methodConfig must be a list, but is {}",
        ),
        (
            r#"{"methodConfig": [{}, 7]}"#,
            "methodConfig[1] must be an object, but is 7",
        ),
        (
            r#"{"methodConfig": [{"name": [{"method": "Get"}]}]}"#,
            r#"methodConfig[0].name[0] must be an entry with a service, but is {"method":"Get"}"#,
        ),
        (
            r#"{"methodConfig": [{"name": [{"service": 7}]}]}"#,
            "methodConfig[0].name[0].service must be a string, but is 7",
        ),
        (
            r#"{"methodConfig": [{"name": [{"service": "a"}]}, {"name": [{}, {"service": "a"}]}]}"#,
            r#"methodConfig[1].name[1] must be the only entry of its name, but is {"service":"a"}"#,
        ),
        (
            r#"{"methodConfig": [{"timeout": 3}]}"#,
            "methodConfig[0].timeout must be a string such as \"1.5s\", not negative, but is 3",
        ),
        (
            r#"{"methodConfig": [{"hedgingPolicy": {"maxAttempts": 2}}]}"#,
            r#"methodConfig[0].hedgingPolicy must be left out (hedging is not supported), but is {"maxAttempts":2}"#,
        ),
        (
            r#"{"retryThrottling": {"maxTokens": 1001, "tokenRatio": 1}}"#,
            "retryThrottling.maxTokens must be an integer from 1 to 1000, but is 1001",
        ),
        (
            r#"{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}"#,
            "retryThrottling.maxTokens must be an integer from 1 to 1000, but is 0",
        ),
        (
            r#"{"retryThrottling": {"maxTokens": 10, "tokenRatio": 0}}"#,
            "retryThrottling.tokenRatio must be a number of at least 0.001, but is 0",
        ),
        (
            r#"{"retryThrottling": {"tokenRatio": 1}}"#,
            "retryThrottling.maxTokens must be set, but is missing",
        ),
        (
            "{",
            "service config must be JSON, but is not: EOF while parsing an object at line 1 column 1",
        ),
    ] {
        assert_eq!(error(text), expected);
    }
}

#[test]
fn a_text_that_is_too_long_or_too_deep_is_refused() {
    let long = format!("{{{}}}", " ".repeat(1 << 20));
    assert_eq!(
        error(&long),
        "service config must be at most 1 MiB, but is 1048578 bytes"
    );
    let deep = format!("{{\"a\": {}", "[".repeat(1_000_000));
    assert!(error(&deep).contains("recursion limit exceeded"));
    // An error shows only the beginning of a long value.
    let value = "é".repeat(10_000);
    let shown = error(&format!(r#"{{"methodConfig": "{value}"}}"#));
    assert!(shown.chars().count() < 150, "{shown}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".*", at in 0..400_usize, cut in 0..40_usize) {
        let _any = ServiceConfig::from_json(&text);
        let mut config = with_policy("4", "4");
        let at = at.min(config.len());
        let end = (at + cut).min(config.len());
        config.replace_range(at..end, text.get(..3).unwrap_or(""));
        let _any = ServiceConfig::from_json(&config);
    }
}

// Calls, in the process, on a paused clock

type Upstream = Arc<dyn Fn(&str, usize) -> Result<&'static str, std::io::Error> + Send + Sync>;

/// A config around an upstream that returns a status, by path and number of the send.
struct Client {
    config: ServiceConfig,
    stack: buttress::http::StackLayer<grpc::StatusClassifier, grpc::ByConfig>,
    upstream: Upstream,
    /// When each call was sent.
    sent: Arc<Mutex<Vec<Instant>>>,
}

impl Client {
    fn new(
        config: &str,
        upstream: impl Fn(&str, usize) -> Result<&'static str, std::io::Error> + Send + Sync + 'static,
    ) -> Self {
        let config = ServiceConfig::from_json(config).unwrap();
        let stack = config.stack().retry(|retry| retry.seed(7));
        Self {
            stack: stack.build().unwrap(),
            config,
            upstream: Arc::new(upstream),
            sent: Arc::default(),
        }
    }

    /// Returns the status of the call.
    async fn send(&self, request: Request<Full<Bytes>>) -> String {
        self.sent.lock().unwrap().clear();
        let (sent, upstream) = (self.sent.clone(), self.upstream.clone());
        let upstream = service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
            let number = {
                let mut sent = sent.lock().unwrap();
                sent.push(Instant::now());
                sent.len()
            };
            let status = upstream(request.uri().path(), number);
            async move {
                let status = status?;
                if status == "never" {
                    return std::future::pending().await;
                }
                let response = Response::builder().header("grpc-status", status);
                let response = response.header("grpc-attempt", number);
                Ok::<_, std::io::Error>(response.body(Empty::<Bytes>::new()).unwrap())
            }
        });
        let service = grpc::service(&self.stack, upstream, |body| body);
        match self.config.layer(service).oneshot(request).await {
            Ok(response) => response.headers()["grpc-status"].to_str().unwrap().into(),
            Err(error) => error.to_string(),
        }
    }

    async fn get(&self, path: &str) -> String {
        self.send(get(path)).await
    }

    fn sends(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    fn waits(&self) -> Vec<Duration> {
        let sent = self.sent.lock().unwrap();
        sent.windows(2).map(|two| two[1] - two[0]).collect()
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::post(path).body(Full::new(Bytes::new())).unwrap()
}

fn lost() -> std::io::Error {
    std::io::Error::from(std::io::ErrorKind::ConnectionReset)
}

#[tokio::test(start_paused = true)]
async fn a_call_is_sent_as_often_and_as_late_as_its_policy_says() {
    let throttling = r#""retryThrottling": {"maxTokens": 1000, "tokenRatio": 1}, "methodConfig""#;
    let config = with_policy("4", "9").replace("\"methodConfig\"", throttling);
    let client = Client::new(&config, |_, _| Ok("14"));
    let mut first = Vec::new();
    for _ in 0..40 {
        client.stack.circuit().unwrap().reset();
        assert_eq!(client.get("/a.B/C").await, "14");
        assert_eq!(client.sends(), 5); // more than 5 count as 5
        let waits = client.waits();
        for (wait, plain) in waits
            .iter()
            .zip([100, 200, 300, 300].map(Duration::from_millis))
        {
            let tick = Duration::from_millis(1);
            assert!(
                *wait >= plain.mul_f64(0.8) && *wait <= plain.mul_f64(1.2) + tick,
                "{waits:?}"
            );
        }
        first.push(waits[0]);
    }
    // The whole range is used.
    assert!(*first.iter().min().unwrap() < Duration::from_millis(88));
    assert!(*first.iter().max().unwrap() > Duration::from_millis(112));
}

#[tokio::test(start_paused = true)]
async fn only_the_codes_of_the_policy_are_retried() {
    let config = with_policy(r#""UNAVAILABLE""#, r#""aborted", 13, "RESOURCE_EXHAUSTED""#);
    for (status, sends) in [
        ("10", 4),
        ("13", 4),
        ("8", 4),
        ("14", 1),
        ("4", 1),
        ("2", 1),
        ("5", 1),
    ] {
        let throttling =
            r#""retryThrottling": {"maxTokens": 100, "tokenRatio": 1}, "methodConfig""#;
        let config = config.replace("\"methodConfig\"", throttling);
        let client = Client::new(&config, move |_, _| Ok(status));
        assert_eq!(client.get("/a.B/C").await, status);
        assert_eq!(client.sends(), sends, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_that_is_not_retried_still_opens_the_circuit() {
    let config = with_policy("\"UNAVAILABLE\"", "10");
    let client = Client::new(&config, |_, _| Ok("14"));
    for _ in 0..10 {
        client.get("/a.B/C").await;
    }
    assert_eq!(client.stack.circuit().unwrap().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_lost_call_counts_as_unavailable() {
    let first_lost = |_: &str, number| if number == 1 { Err(lost()) } else { Ok("0") };
    let client = Client::new(&with_policy("4", "4"), first_lost);
    assert_eq!(client.get("/a.B/C").await, "0");
    // It may have been processed.
    let client = Client::new(&with_policy("\"UNAVAILABLE\"", "10"), first_lost);
    assert!(client.get("/a.B/C").await.contains("reset"));
    assert_eq!(client.sends(), 1);
    // Also after an attempt with a response.
    let then_lost = |_: &str, number| if number == 1 { Ok("10") } else { Err(lost()) };
    let client = Client::new(&with_policy("\"UNAVAILABLE\"", "10"), then_lost);
    assert!(client.get("/a.B/C").await.contains("reset"));
    assert_eq!(client.sends(), 2);
    // A refused connection processed nothing, whatever the policy.
    let refused = |_: &str, number| match number {
        1 => Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
        _ => Ok("0"),
    };
    for config in [with_policy("\"UNAVAILABLE\"", "10"), "{}".into()] {
        let client = Client::new(&config, refused);
        assert_eq!(client.get("/a.B/C").await, "0");
    }
}

#[tokio::test(start_paused = true)]
async fn the_most_exact_name_counts() {
    let config = format!(
        r#"{{"methodConfig": [
            {{"name": [{{}}], "timeout": "1s"}},
            {{"name": [{{"service": "orders.Orders"}}], "timeout": "2s"}},
            {{"name": [{{"service": "orders.Orders", "method": "Get"}}], "timeout": "20s"}},
            {{"name": [{{"service": "users.Users", "method": "Get"}}], "retryPolicy": {POLICY}}}
        ]}}"#
    );
    let client = Client::new(&config, |_, _| Ok("never"));
    for (path, seconds) in [
        ("/orders.Orders/Get", 20),
        ("/orders.Orders/GetAll", 2),
        ("/orders.Orders/", 2),
        ("/orders.OrdersV2/Get", 1),
        ("/users.Users/Put", 1),
        ("/users.Users/Get", 20), // the deadline of the stack
        ("/", 1),
        ("/orders.Orders/Get/More", 1),
    ] {
        let start = Instant::now();
        assert_eq!(client.get(path).await, "4");
        let late = start.elapsed().saturating_sub(seconds * SECOND);
        assert!(start.elapsed() >= seconds * SECOND, "{path}");
        assert!(late < Duration::from_millis(20), "{path}: {late:?}");
        client.stack.circuit().unwrap().reset();
    }
    // A deadline that the call carries counts if it is earlier.
    for (carried, expected) in [(3, 3), (30, 20)] {
        let mut request = get("/orders.Orders/Get");
        request
            .extensions_mut()
            .insert(Deadline::after(carried * SECOND));
        let start = Instant::now();
        assert_eq!(client.send(request).await, "4");
        assert_eq!(start.elapsed().as_secs(), expected);
        client.stack.circuit().unwrap().reset();
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_the_deadline_is_ten_seconds() {
    let client = Client::new(&with_policy("4", "4"), |_, _| Ok("never"));
    let start = Instant::now();
    assert_eq!(client.get("/a.B/C").await, "4");
    assert_eq!((start.elapsed().as_secs(), client.sends()), (10, 1));
}

#[tokio::test(start_paused = true)]
async fn retries_are_throttled_by_the_tokens_of_the_proposal() {
    let config = format!(
        r#"{{
            "methodConfig": [{{"name": [{{"service": "a.B", "method": "Retried"}}], "retryPolicy": {POLICY}}}],
            "retryThrottling": {{"maxTokens": 10, "tokenRatio": 0.5}}
        }}"#
    );
    let client = Client::new(&config, |_, number| {
        Ok(if number == 2 { "0" } else { "14" })
    });
    // Each of these calls takes one token, and earns one half: 10 to 6.
    for call in 0..8 {
        assert_eq!(client.get("/a.B/Retried").await, "0", "{call}");
    }
    // Methods without a policy take none.
    for _ in 0..3 {
        assert_eq!(client.get("/a.B/Other").await, "14");
        assert_eq!(client.sends(), 1);
    }
    // 6 to 5: not more than half.
    assert_eq!(client.get("/a.B/Retried").await, "14");
    assert_eq!(client.sends(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_not_retried_takes_no_token() {
    let tokens = r#""retryThrottling": {"maxTokens": 3, "tokenRatio": 0.001}, "methodConfig""#;
    let config = with_policy("4", "2").replace("\"methodConfig\"", tokens);
    let client = Client::new(&config, |path, number| match path {
        "/a.B/Fails" => Ok(if number == 2 { "0" } else { "14" }),
        "/a.B/Full" => Ok("8"),
        _ => Ok("13"),
    });
    for path in ["/a.B/Full", "/a.B/Full", "/a.B/Broken"] {
        client.get(path).await;
        assert_eq!(client.sends(), 1);
    }
    // 3 to 2, more than half, then to 1.001.
    for sends in [2, 1] {
        client.get("/a.B/Fails").await;
        assert_eq!(client.sends(), sends);
    }
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_resource_is_no_failure_of_the_circuit_whether_it_is_retried_or_not() {
    for config in [with_policy("4", "2"), with_policy("\"UNAVAILABLE\"", "8")] {
        let config = ServiceConfig::from_json(&config).unwrap();
        let stack = config.stack().build().unwrap();
        let upstream = service_fn(|_: Request<ReplayBody<Full<Bytes>>>| async {
            let response = Response::builder().header("grpc-status", "8");
            let response = response.header("grpc-retry-pushback-ms", "2000");
            response.body(Empty::<Bytes>::new())
        });
        let client = config.layer(grpc::service(&stack, upstream, |body| body));
        client.oneshot(get("/a.B/C")).await.unwrap();
        let circuit = stack.circuit().unwrap().snapshot();
        assert_eq!(circuit.failures, 0);
    }
}

#[test]
fn two_threads_share_the_tokens() {
    let budget = Budget::grpc(1_000, 0.5).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..400 {
                    budget.record_failure();
                }
            });
        }
    });
    assert_eq!(budget.tokens().round() as u32, 200);
}

#[test]
fn a_budget_of_grpc_names_a_wrong_setting() {
    let error = |max_tokens, ratio| Budget::grpc(max_tokens, ratio).unwrap_err().to_string();
    for tokens in [0, 1_001, u32::MAX] {
        let expected = format!("max_tokens must be 1 to 1000, but is {tokens}");
        assert_eq!(error(tokens, 0.1), expected);
    }
    for ratio in [f64::NAN, f64::INFINITY, -1.0, 0.0, 0.000_9] {
        let expected = format!("token_ratio must be finite and at least 0.001, but is {ratio:?}");
        assert_eq!(error(10, ratio), expected);
    }
    assert!(Budget::grpc(10, f64::MAX).is_ok());
}

#[test]
fn the_tokens_stay_between_zero_and_their_maximum() {
    let budget = Budget::grpc(3, 0.6).unwrap();
    let thousandths = || (budget.tokens() * 1_000.0).round() as u32;
    budget.deposit();
    assert_eq!(thousandths(), 3_000);
    for (tokens, allowed) in [(2000, true), (1000, false), (0, false), (0, false)] {
        budget.record_failure();
        assert_eq!(thousandths(), tokens);
        assert_eq!(budget.try_withdraw().is_some(), allowed);
    }
    for (tokens, allowed) in [
        (600, false),
        (1200, false),
        (1800, true),
        (2400, true),
        (3000, true),
        (3000, true),
    ] {
        budget.deposit();
        assert_eq!(thousandths(), tokens);
        assert_eq!(budget.try_withdraw().is_some(), allowed);
        budget
            .try_withdraw()
            .into_iter()
            .for_each(buttress::retry::Withdrawal::spend);
        assert_eq!(thousandths(), tokens);
    }
    let printed = budget.to_string();
    assert_eq!(printed, "budget of gRPC, at most 3 tokens, 0.6 per success");
}

#[tokio::test(start_paused = true)]
async fn a_retry_says_how_many_calls_there_were_before() {
    let config = ServiceConfig::from_json(&with_policy("4", "3")).unwrap();
    let stack = config.stack().build().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let headers = seen.clone();
    let upstream = service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
        let header = request.headers().get("grpc-previous-rpc-attempts").cloned();
        headers.lock().unwrap().push(header);
        let response = Response::builder().header("grpc-status", "14");
        async { response.body(Empty::<Bytes>::new()) }
    });
    let client = config.layer(grpc::service(&stack, upstream, |body| body));
    client.oneshot(get("/a.B/C")).await.unwrap();
    let seen = seen.lock().unwrap();
    let seen: Vec<_> = seen
        .iter()
        .map(|value| value.as_ref().map(|value| value.to_str().unwrap()))
        .collect();
    assert_eq!(seen, [None, Some("1"), Some("2")]);
}

#[tokio::test(start_paused = true)]
async fn the_stack_retries_nothing_without_the_layer() {
    let config = ServiceConfig::from_json(&with_policy("4", "4")).unwrap();
    let stack = config.stack().build().unwrap();
    let sends = Arc::new(Mutex::new(0));
    let counted = sends.clone();
    let upstream = service_fn(move |_: Request<ReplayBody<Full<Bytes>>>| {
        *counted.lock().unwrap() += 1;
        let response = Response::builder().header("grpc-status", "14");
        async { response.body(Empty::<Bytes>::new()) }
    });
    let client = grpc::service(&stack, upstream, |body| body);
    client.oneshot(get("/a.B/C")).await.unwrap();
    assert_eq!(*sends.lock().unwrap(), 1);
}
