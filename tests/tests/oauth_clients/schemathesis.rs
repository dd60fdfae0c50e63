//! `schemathesis` from PyPI: the hub keeps to the OpenAPI document that it serves, whatever it is sent.

use hearthkey_tests::hub::Hub;
use hearthkey_tests::process::run_within;
use std::time::Duration;

use crate::foreign::{client_program, clients};

/// What each answer is held to.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      response_headers_conformance";
/// Requests for each operation, beyond those for the bounds of each parameter.
const EXAMPLES: &str = "10";
/// Many times what they take.
const PATIENCE: Duration = Duration::from_secs(300);
/// The same requests in each run.
const SEED: &str = "1";

#[tokio::test]
async fn every_answer_is_one_that_the_openapi_document_describes() {
    let hub = Hub::start().await;
    let mut command = client_program(".venv/bin/schemathesis");
    // It remembers failures where it runs: beside the hub, so that no run depends on another.
    command.current_dir(hub.beside()).env("PYTHONPATH", clients()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg("--config-file").arg(clients().join("schemathesis.toml"));
    command.args(["run", &hub.url("/api/v1/openapi.json"), "--tls-verify"]).arg(hub.ca_file());
    command.args(["--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", SEED]);
    command.args(["--no-color", "--warnings", "off"]);
    command.env("OWNER_TOKEN", hub.owner_token());
    let ran = run_within(PATIENCE, command, "").await;
    assert_eq!(ran.exit, 0, "{}\n{}", ran.out, ran.err);
    assert!(ran.out.contains("No issues found"), "{}", ran.out);
    hub.assert_shows_no_secret("schemathesis", &ran.out);
    hub.finish().await;
}
