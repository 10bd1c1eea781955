#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use mcp_oauth_operator::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
