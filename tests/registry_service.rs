//! The page and the actions of a registry over HTTP.

use buttress::event::CircuitState;
use buttress::http::{StackLayer, stack};
use buttress::observe::{Registry, RegistryService};
use http::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

const TOKEN: &str = "0123456789abcdef";

async fn send(
    service: &RegistryService,
    method: Method,
    path: &str,
    auth: &str,
) -> Response<String> {
    let mut request = Request::builder().method(method).uri(path);
    if !auth.is_empty() {
        request = request.header("authorization", auth);
    }
    let request = request.body(()).unwrap();
    service.clone().oneshot(request).await.unwrap()
}

async fn get(service: &RegistryService, path: &str) -> Response<String> {
    send(service, Method::GET, path, "").await
}

/// A registry with one stack, and the path of its actions.
async fn orders() -> (RegistryService, StackLayer, String) {
    let registry = Registry::new();
    let layer = stack()
        .name("orders")
        .load_shed(5)
        .registered(&registry)
        .build()
        .unwrap();
    let service = registry.service().allow_actions(TOKEN).unwrap();
    let state: Value = serde_json::from_str(get(&service, "/state.json").await.body()).unwrap();
    assert_eq!(state["actions"], true);
    let instance = state["instance"].as_str().unwrap();
    let path = format!("/actions/{instance}/{}", state["upstreams"][0]["id"]);
    (service, layer, path)
}

#[tokio::test]
async fn the_page_the_text_and_the_state_are_served_below_any_prefix() {
    let (service, _layer, _) = orders().await;
    for prefix in ["", "/buttress", "/a/b"] {
        for (path, content_type, content) in [
            ("/", "text/html; charset=utf-8", "<!doctype html>"),
            (
                "/metrics",
                "text/plain; version=0.0.4; charset=utf-8",
                "# HELP buttress_",
            ),
            ("/state.json", "application/json", "{\"instance\":"),
        ] {
            let response = get(&service, &format!("{prefix}{path}")).await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], content_type);
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert!(response.body().starts_with(content));
            let head = send(&service, Method::HEAD, path, "").await;
            assert_eq!((head.status(), head.body().as_str()), (StatusCode::OK, ""));
        }
    }
    assert_eq!(get(&service, "/favicon.ico").await.status(), 404);
    for (method, path, allowed) in [
        (Method::POST, "/metrics", "GET, HEAD"),
        (Method::DELETE, "/", "GET, HEAD"),
        (Method::GET, "/actions/1/2/reset", "POST"),
        (Method::PUT, "/actions/1/2/set_limit/3", "POST"),
    ] {
        let response = send(&service, method, path, "").await;
        assert_eq!(response.status(), 405, "{path}");
        assert_eq!(response.headers()["allow"], allowed);
    }
}

#[tokio::test]
async fn the_page_is_small_and_its_policy_allows_no_other_origin() {
    let (service, ..) = orders().await;
    let (first, second) = (get(&service, "/").await, get(&service, "/").await);
    assert!(first.body().len() <= 40 * 1024);
    assert!(!first.body().contains("{{nonce}}") && !first.body().contains("innerHTML"));
    assert!(!first.body().contains("http:") && !first.body().contains("https:"));
    let policy = first.headers()["content-security-policy"].to_str().unwrap();
    for rule in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap();
    assert_eq!(nonce.len(), 32);
    assert!(
        first
            .body()
            .contains(&format!("<script nonce=\"{nonce}\">"))
    );
    assert_ne!(
        first.headers()["content-security-policy"],
        second.headers()["content-security-policy"]
    );
}

#[tokio::test]
async fn an_action_needs_the_token_in_its_header() {
    let (service, layer, path) = orders().await;
    let force_open = format!("{path}/force_open");
    for auth in [
        "",
        TOKEN,
        "Bearer ",
        "Bearer 0123456789abcde",
        "Bearer 0123456789abcdeF",
        "Bearer 0123456789abcdef0",
        "Basic 0123456789abcdef",
    ] {
        let response = send(&service, Method::POST, &force_open, auth).await;
        assert_eq!(response.status(), 401, "{auth}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
    let in_query = format!("{force_open}?token={TOKEN}");
    assert_eq!(
        send(&service, Method::POST, &in_query, "").await.status(),
        401
    );
    assert_eq!(layer.circuit().unwrap().state(), CircuitState::Closed);
}

#[tokio::test]
async fn without_a_token_there_are_no_actions() {
    let registry = Registry::new();
    let _layer = stack().registered(&registry).build().unwrap();
    let service = registry.service();
    assert!(
        get(&service, "/state.json")
            .await
            .body()
            .contains("\"actions\":false")
    );
    let response = send(&service, Method::POST, "/actions/0/1/reset", "Bearer ").await;
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn actions_change_the_circuit_and_the_limit() {
    let (service, layer, path) = orders().await;
    let circuit = layer.circuit().unwrap();
    let post = async |action: &str| {
        let auth = format!("Bearer {TOKEN}");
        let path = format!("{path}/{action}");
        send(&service, Method::POST, &path, &auth)
            .await
            .status()
            .as_u16()
    };
    for (action, state) in [
        ("force_open", CircuitState::ForcedOpen),
        ("force_closed", CircuitState::ForcedClosed),
        ("reset", CircuitState::Closed),
    ] {
        assert_eq!(post(action).await, 204);
        assert_eq!(circuit.state(), state);
    }
    assert_eq!(post("set_limit/9").await, 204);
    assert_eq!(layer.limit().unwrap().snapshot().limit, 9);
    for wrong in ["", "-1", "x", "99999999999999999999999"] {
        assert_eq!(post(&format!("set_limit/{wrong}")).await, 400, "{wrong}");
    }
    assert_eq!(post("explode").await, 404);
    assert_eq!(post("reset/1").await, 404);
    assert_eq!(layer.limit().unwrap().snapshot().limit, 9);
}

#[tokio::test]
async fn an_action_for_another_process_or_entry_changes_nothing() {
    let (service, layer, path) = orders().await;
    let auth = format!("Bearer {TOKEN}");
    let other_process = send(
        &service,
        Method::POST,
        "/actions/0000000000000000/1/force_open",
        &auth,
    );
    assert_eq!(other_process.await.status(), 409);
    for id in ["999", "x", "-1"] {
        let (instance, _) = path.rsplit_once('/').unwrap();
        let other_entry = format!("{instance}/{id}/force_open");
        assert_eq!(
            send(&service, Method::POST, &other_entry, &auth)
                .await
                .status(),
            404
        );
    }
    assert_eq!(layer.circuit().unwrap().state(), CircuitState::Closed);
}

#[test]
fn a_token_that_is_too_short_or_not_visible_is_refused_and_not_shown() {
    for token in [
        "",
        "0123456789abcde",
        "0123456789 abcdef",
        "0123456789abcdéf",
    ] {
        let error = Registry::new().service().allow_actions(token).unwrap_err();
        assert_eq!(error.field(), "token");
        assert!(!error.to_string().contains("012345"), "{error}");
    }
}
