//! `config/monitoring`: alerts fire under their conditions, and alerts and dashboard use existing metrics.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use e2e::{
    forward::free_port,
    image::workspace,
    peers::{dev::Dev, http},
    program,
};
use serde_json::{Value, json};

const PREFIX: &str = "mcp_oauth_proxy_";

fn file(name: &str) -> PathBuf {
    workspace().join("config/monitoring").join(name)
}

/// The rule groups in Prometheus's format.
fn rules() -> Value {
    let rule: Value = serde_yaml::from_str(&fs::read_to_string(file("alerts.yaml")).unwrap()).unwrap();
    rule["spec"].clone()
}

#[test]
fn alerts_fire_under_their_conditions_only() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yaml"), serde_yaml::to_string(&rules()).unwrap()).unwrap();
    fs::copy(file("alerts.test.yaml"), folder.path().join("alerts.test.yaml")).unwrap();
    let promtool = program::find("promtool", "prometheus").unwrap();
    let tested =
        Command::new(promtool).args(["test", "rules", "alerts.test.yaml"]).current_dir(folder.path()).output().unwrap();
    assert!(
        tested.status.success(),
        "{}{}",
        String::from_utf8_lossy(&tested.stdout),
        String::from_utf8_lossy(&tested.stderr)
    );
    // promtool does not detect alerts without a test.
    let tests = fs::read_to_string(file("alerts.test.yaml")).unwrap();
    let runbook = fs::read_to_string(workspace().join("docs/observability.md")).unwrap();
    for rule in all_rules() {
        let name = rule["alert"].as_str().unwrap();
        assert_eq!(
            tests.matches(&format!("alertname: {name}\n        exp_alerts:")).count(),
            1,
            "no test shows that {name} fires"
        );
        assert!(tests.contains(&format!("alertname: {name}}}")), "no test shows that {name} does not fire");
        assert!(runbook.contains(&format!("\n### {name}\n")), "docs/observability.md has no section {name}");
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert!(url.ends_with(&format!("docs/observability.md#{}", name.to_lowercase())), "{url}");
    }
}

fn all_rules() -> Vec<Value> {
    let groups = rules()["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[tokio::test]
async fn alerts_dashboard_and_documentation_name_existing_metrics() {
    let state = tempfile::tempdir().unwrap();
    let dev = Dev::start(&state.path().join("state")).unwrap();
    let health = dev.health().unwrap();
    let response = http::client(None).unwrap().get(format!("{health}/metrics")).send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let metrics = response.text().await.unwrap();
    let exposed: BTreeSet<String> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect();
    assert!(exposed.contains("mcp_oauth_proxy_requests_total"), "{metrics}");

    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file("dashboard.json")).unwrap()).unwrap();
    let mut used = BTreeSet::new();
    collect(&Value::Array(all_rules()), &mut used);
    collect(&dashboard, &mut used);
    assert!(used.len() > 20, "{used:?}");
    let unknown: Vec<_> = used.difference(&exposed).collect();
    assert!(unknown.is_empty(), "unknown metrics: {unknown:?}");

    let documented = fs::read_to_string(workspace().join("docs/observability.md")).unwrap();
    let documented: BTreeSet<&str> =
        documented.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0)).collect();
    let families: BTreeSet<&str> = exposed
        .iter()
        .map(|name| ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name))
        .collect();
    let of_proxy: BTreeSet<&str> = documented.into_iter().filter(|name| name.starts_with(PREFIX)).collect();
    assert_eq!(of_proxy, families, "left: documented, right: exposed");
}

/// Killed when dropped.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn prometheus_scrapes_the_proxy_and_loads_the_alerts() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join("state")).unwrap();
    let health = dev.health().unwrap();
    fs::write(folder.path().join("rules.yaml"), serde_yaml::to_string(&rules()).unwrap()).unwrap();
    let scrape =
        json!([{"job_name": "front", "static_configs": [{"targets": [health.trim_start_matches("http://")]}]}]);
    let config = json!({"global": {"scrape_interval": "1s"}, "rule_files": ["rules.yaml"], "scrape_configs": scrape});
    fs::write(folder.path().join("prometheus.yaml"), config.to_string()).unwrap();
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let program = program::find("prometheus", "prometheus").unwrap();
    let _prometheus = Prometheus(
        Command::new(program)
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address={listen}"))
            .current_dir(folder.path())
            .spawn()
            .unwrap(),
    );
    let client = http::client(None).unwrap();
    let query = async |path: &str| -> Option<Value> {
        client.get(format!("http://{listen}/api/v1/{path}")).send().await.ok()?.json().await.ok()
    };
    let started = Instant::now();
    let seen = loop {
        let response = query("query?query=mcp_oauth_proxy_requests_total").await;
        let series = response.and_then(|response| response["data"]["result"].as_array().cloned()).unwrap_or_default();
        if !series.is_empty() {
            break series;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "Prometheus scraped nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(seen.iter().any(|series| series["metric"]["outcome"] == "unauthorized"), "{seen:?}");
    let loaded = query("rules").await.unwrap();
    let loaded =
        loaded["data"]["groups"].as_array().unwrap().iter().map(|group| group["rules"].as_array().unwrap().len());
    assert_eq!(loaded.sum::<usize>(), all_rules().len());
}

/// Collects the names of the proxy's metrics in all strings.
fn collect(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            for word in text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_') {
                if word.starts_with(PREFIX) {
                    names.insert(word.to_owned());
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, names)),
        Value::Object(members) => members.values().for_each(|value| collect(value, names)),
        _ => (),
    }
}
