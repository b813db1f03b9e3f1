//! A cluster of three servers.

use super::server::{Server, free_port};
use super::{ALONE, calls, is_up, quota, until_up};
use buttress::fleet::{Fleet, RedisStore};
use redis::cluster::ClusterClientBuilder;
use std::time::Duration;
use tokio::time::sleep;

fn id(server: &Server) -> String {
    let answer = server.command("CLUSTER MYID");
    answer.lines().nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn a_cluster_whose_slot_moves() {
    let _alone = ALONE.lock().await;
    let ports = [free_port(), free_port(), free_port()];
    let start = |port: &u16| {
        let (port, bus) = (port.to_string(), free_port().to_string());
        Server::with(
            &[
                "--port",
                &port,
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--bind",
                "127.0.0.1",
            ],
            false,
        )
        .map(|server| (server, bus))
    };
    let Some(nodes) = ports.iter().map(start).collect::<Option<Vec<_>>>() else {
        return;
    };
    for (i, slots) in ["0 5460", "5461 10922", "10923 16383"].iter().enumerate() {
        assert!(
            nodes[i]
                .0
                .command(&format!("CLUSTER ADDSLOTSRANGE {slots}"))
                .starts_with("+OK")
        );
        let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", ports[i], nodes[i].1);
        assert!(nodes[0].0.command(&meet).starts_with("+OK"));
    }
    for (node, _) in &nodes {
        let mut tries = 0;
        while !node.command("CLUSTER INFO").contains("cluster_state:ok") {
            tries += 1;
            assert!(tries < 200, "{}", node.command("CLUSTER INFO"));
            sleep(Duration::from_millis(50)).await;
        }
    }
    let addresses = ports.map(|port| format!("redis://127.0.0.1:{port}"));
    let client = ClusterClientBuilder::new(addresses).build().unwrap();
    let connection = client.get_async_connection().await.unwrap();
    let fleet = Fleet::builder(quota(), RedisStore::new(connection)).key("cluster");
    let fleet = fleet.share(0.5).build().unwrap();
    let seen = calls(&fleet, 2_000, Duration::from_secs(1)).await;
    assert!(seen.sent.len() >= 950, "{}", seen.sent.len());
    assert_eq!(fleet.snapshot().failures, 0, "{:?}", fleet.snapshot());

    // The slot moves to the next node, as when a cluster is resharded.
    let slot = nodes[0].0.command("CLUSTER KEYSLOT buttress:{cluster}");
    let slot: usize = slot.trim().trim_start_matches(':').parse().unwrap();
    let from = [5_460, 10_922, 16_383]
        .iter()
        .position(|last| slot <= *last)
        .unwrap();
    let to = (from + 1) % 3;
    let (source, target) = (id(&nodes[from].0), id(&nodes[to].0));
    nodes[to]
        .0
        .command(&format!("CLUSTER SETSLOT {slot} IMPORTING {source}"));
    nodes[from]
        .0
        .command(&format!("CLUSTER SETSLOT {slot} MIGRATING {target}"));
    let seen = calls(&fleet, 200, Duration::from_millis(500)).await;
    assert_eq!(seen.rejected, 0);
    for key in ["buttress:{cluster}", "buttress:{cluster}:peers"] {
        nodes[from]
            .0
            .command(&format!("MIGRATE 127.0.0.1 {} {key} 0 1000", ports[to]));
    }
    for node in [to, from] {
        nodes[node]
            .0
            .command(&format!("CLUSTER SETSLOT {slot} NODE {target}"));
    }
    let seen = calls(&fleet, 500, Duration::from_secs(1)).await;
    assert_eq!(seen.rejected, 0);
    assert!(
        seen.longest < Duration::from_millis(120),
        "{:?}",
        seen.longest
    );
    until_up(&fleet).await;
    assert!(is_up(&fleet));
}
