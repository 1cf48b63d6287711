use std::path::Path;

use super::*;

mod settings_page;

const MINIMAL: &str = r#"
[node]
id = 1
data_dir = "/var/lib/ottla"
[advertise]
client = "one:9092"
internal = "one:9093"
[[controllers]]
id = 1
address = "one:9093"
"#;

fn parse(text: &str) -> Result<NodeConfig, String> {
    NodeConfig::parse(Path::new("ottla.toml"), text, Overrides::default())
        .map_err(|error| error.to_string())
}

fn refusal(text: &str) -> String {
    let message = parse(text).unwrap_err();
    assert!(!message.contains('\n'), "one line: {message}");
    message
}

#[test]
fn a_minimal_file_takes_the_documented_defaults() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.roles.to_string(), "controller,broker");
    assert_eq!(config.listen.client.to_string(), "0.0.0.0:9092");
    assert_eq!(config.advertise.internal.to_string(), "one:9093");
    assert_eq!(config.controller.session_timeout.as_millis(), 3_000);
    assert_eq!(config.broker.replica_lag_time_max.as_millis(), 10_000);
}

#[test]
fn a_written_file_reads_back_as_itself() {
    let file: ConfigFile = toml::from_str(MINIMAL).unwrap();
    let text = toml::to_string(&file).unwrap();
    assert_eq!(toml::from_str::<ConfigFile>(&text).unwrap(), file);
}

#[test]
fn an_unknown_key_is_refused_on_its_line() {
    let text = MINIMAL.replace("id = 1\ndata_dir", "id = 1\nrak = \"a\"\ndata_dir");
    let message = refusal(&text);
    assert!(message.starts_with("ottla.toml:4: "), "{message}");
    assert!(message.contains("rak"), "{message}");
}

#[test]
fn listening_everywhere_demands_an_advertised_address() {
    let message = refusal(&MINIMAL.replace("client = \"one:9092\"\n", ""));
    assert!(
        message.starts_with("ottla.toml: advertise.client: is missing"),
        "{message}"
    );
    let text = MINIMAL.replace("client = \"one:9092\"\n", "");
    let loopback = format!("{text}[listen]\nclient = \"127.0.0.1:9092\"\n");
    let config = parse(&loopback).unwrap();
    assert_eq!(config.advertise.client.to_string(), "127.0.0.1:9092");
}

#[test]
fn a_controller_only_node_need_not_advertise_to_clients() {
    let text = MINIMAL.replace("client = \"one:9092\"\n", "").replace(
        "id = 1\ndata_dir",
        "id = 1\nroles = [\"controller\"]\ndata_dir",
    );
    assert!(parse(&text).is_ok());
}

#[test]
fn a_controller_must_be_among_the_controllers_and_a_broker_must_not() {
    let message = refusal(&MINIMAL.replace("[node]\nid = 1", "[node]\nid = 7"));
    assert!(
        message.starts_with("ottla.toml:3: node.id: 7 has the role controller"),
        "{message}"
    );
    let text = MINIMAL.replace("id = 1\ndata_dir", "id = 1\nroles = [\"broker\"]\ndata_dir");
    assert!(refusal(&text).contains("ottla.toml:4: node.roles: lacks"));
}

#[test]
fn controllers_have_unique_ids_and_addresses() {
    let twice = format!("{MINIMAL}[[controllers]]\nid = 1\naddress = \"two:9093\"\n");
    assert!(refusal(&twice).starts_with("ottla.toml:12: controllers[1].id: 1 is listed twice"));
    let same = format!("{MINIMAL}[[controllers]]\nid = 2\naddress = \"one:9093\"\n");
    assert!(refusal(&same).contains("is also controller 1's"));
}

#[test]
fn election_timeouts_are_a_range_well_above_the_heartbeat() {
    let with = |range: &str| format!("{MINIMAL}[controller]\nelection_timeout_ms = {range}\n");
    assert!(parse(&with("[200, 400]")).is_ok());
    assert!(refusal(&with("[400, 400]")).contains("must be less than the second"));
    assert!(refusal(&with("[150, 400]")).contains("twice controller.heartbeat_ms"));
}

#[test]
fn the_data_directory_is_required_and_can_be_overridden() {
    let without = MINIMAL.replace("data_dir = \"/var/lib/ottla\"\n", "");
    assert!(refusal(&without).starts_with("ottla.toml: node.data_dir: is missing"));
    let overrides = Overrides {
        data_dir: Some("/elsewhere".into()),
    };
    let config = NodeConfig::parse(Path::new("f"), &without, overrides).unwrap();
    assert_eq!(config.data_dir, Path::new("/elsewhere"));
}

#[test]
fn numbers_out_of_range_name_the_range() {
    let text = format!("{MINIMAL}[broker]\nthreads = 0\n");
    assert_eq!(
        refusal(&text),
        "ottla.toml:12: broker.threads: 0 is out of range; use 1 to 256"
    );
}

#[test]
fn a_misspelt_key_and_a_value_of_another_type_are_told_in_words() {
    let misspelt = refusal(&format!("{MINIMAL}[broker]\nthread = 2\n"));
    assert!(misspelt.contains("did you mean `threads`?"), "{misspelt}");
    let section = refusal(&format!("{MINIMAL}[brokers]\nthreads = 2\n"));
    assert!(section.contains("did you mean `broker`?"), "{section}");
    for value in ["\"two\"", "-2", "1.5", "99999999999"] {
        let typed = refusal(&format!(
            "{MINIMAL}[limits]\nstreams_per_connection = {value}\n"
        ));
        assert!(typed.contains("expected a whole number"), "{typed}");
        assert!(!typed.contains("u32"), "{typed}");
    }
    let usize = refusal(&format!("{MINIMAL}[broker]\nthreads = \"x\"\n"));
    assert!(!usize.contains("usize"), "{usize}");
}

#[test]
fn a_value_of_another_type_is_told_with_its_key_and_its_unit() {
    let told = |section: &str, line: &str| refusal(&format!("{MINIMAL}[{section}]\n{line}\n"));
    assert_eq!(
        told("log", "journal_file_bytes = \"64MiB\""),
        "ottla.toml:12: log.journal_file_bytes: invalid type: string \"64MiB\", expected a whole \
         number of bytes that fits"
    );
    let rate = told("log", "scrub_bytes_per_second = \"4MiB\"");
    assert!(rate.contains("log.scrub_bytes_per_second: "), "{rate}");
    assert!(rate.contains("number of bytes that"), "{rate}");
    let time = told("broker", "beat_interval_ms = \"1s\"");
    assert!(time.contains("number of milliseconds that"), "{time}");
    let pair = told("controller", "election_timeout_ms = [\"a\", 4]");
    assert!(
        pair.contains(":12: controller.election_timeout_ms: "),
        "{pair}"
    );
    let id = refusal(&MINIMAL.replace("id = 1\naddress", "id = \"x\"\naddress"));
    assert!(id.contains("controllers[0].id: "), "{id}");
    let text = told("listen", "client = 7");
    assert!(text.contains(":12: listen.client: "), "{text}");
}
