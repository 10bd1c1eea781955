#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_oauth_operator::testing::fuzzing;

fuzz_target!(|data: &str| fuzzing::request(data));
