//! Who must not get through a tunnel, and hosts that lead nowhere: the session is told, the server hears nothing.

use serde_json::{Value, json};

use super::{Gateway, Office, Orders, called, called_by, late_orders, outcome, plane};

/// What came of a call to `url` in the name of whoever `api` is for, as a session's error.
fn error(events: &[Value]) -> Value {
    let found = events.iter().find(|event| event["type"] == "session.error");
    assert!(
        !events
            .iter()
            .any(|event| event["type"] == "agent.mcp_tool_result" && event["is_error"] != true),
        "{events:?}"
    );
    found.unwrap_or_else(|| panic!("no error: {events:?}"))["error"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_another_workspace_finds_no_tunnel() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let gateway = Gateway::connected(&world, &office).await;
    let other = world.api.make("/v1/workspaces", json!({ "name": "other" })).await;
    let wish = json!({ "name": "theirs", "role": "admin", "workspace_id": other });
    let key = world.api.post("/v1/api_keys", wish).await.ok();
    let theirs = world.api.with_key(key["key"].as_str().unwrap());
    let ask = json!({ "customer": "Hartmann" });
    // However they write it; and one that there is not looks the same.
    let unknown = office.url().replace(&office.domain[..4], "aaaa");
    let mut told = Vec::new();
    for url in [
        office.url(),
        office.url().to_uppercase().replace("HTTPS", "https"),
        office.url().replace("/mcp", "./mcp"),
        unknown,
    ] {
        let error = error(&called_by(&theirs, &url, "late_orders", ask.clone()).await);
        assert_eq!(error["type"], "mcp_connection_failed_error", "{url}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("no tunnel with that domain"), "{url}: {message}");
        told.push(message.split(": ").last().unwrap().to_owned());
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
    // The gateway was asked for nothing, and works for those whose it is.
    assert!(!gateway.log().contains("refused"), "{}", gateway.log());
    let said = office.tunnel(&world, &["records", "--json"]).await.ok();
    assert_eq!(said.trim(), "");
    assert!(late_orders(&world, &office).await.unwrap().contains(&orders.parcel));
    let said = office.tunnel(&world, &["records", "--json"]).await.ok();
    let by: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(by.iter().all(|record| record["workspace"] != other), "{by:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_the_domain_that_lead_nowhere() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let gateway = Gateway::connected(&world, &office).await;
    let ask = json!({ "customer": "Hartmann" });
    let domain = &office.domain;
    for (url, wanted) in [
        (format!("https://nothing.{domain}/mcp"), "no route"),
        (format!("https://{domain}/mcp"), "no route"),
        (format!("https://deep.orders.{domain}/mcp"), "no route"),
        (format!("https://orders.{domain}:8443/mcp"), "port 443"),
    ] {
        let events = called(&world, &url, "late_orders", ask.clone()).await;
        let error = error(&events).to_string();
        assert!(error.contains(wanted), "{url}: {error}");
        assert!(outcome(&events).is_err());
    }
    assert!(gateway.log().contains("no route for host"), "{}", gateway.log());
    assert!(late_orders(&world, &office).await.unwrap().contains(&orders.parcel));
}
