//! The `e2e` command: starts, shows and stops the test bed and its components.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use e2e::{bench, cluster, demo, forward, image, operator, peers, prepare, reference, testing};

#[derive(Parser)]
#[command(about = "The test bed: real components on one machine", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Manage the Kubernetes cluster.
    #[command(subcommand)]
    Cluster(cluster::Action),
    /// Run the main use case and leave it running.
    #[command(subcommand)]
    Demo(demo::Action),
    /// Install the operator in the cluster.
    #[command(subcommand)]
    Operator(operator::Action),
    /// Build and download the components of the test bed, once.
    Prepare,
    /// Run the tests that need the test bed, in a new one.
    Test(testing::Args),
    /// Benchmark the proxy against nginx, and write bench/RESULTS.md.
    Bench(bench::Args),
    /// Load the proxy for half an hour, including slow clients, and write bench/SOAK.md.
    Soak(bench::soak::Args),
    /// Build the operator's image.
    Image,
    /// Write the reference of all fields of the custom resources.
    Reference(reference::Args),
    /// Forward loopback ports into a run's network namespace (started by other commands).
    #[command(hide = true)]
    Forward(forward::Args),
    #[command(flatten)]
    Peer(peers::Command),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Cluster(action) => action.run(),
        Command::Demo(action) => action.run(),
        Command::Operator(action) => action.run(),
        Command::Prepare => prepare::run(),
        Command::Test(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Soak(args) => args.run(),
        Command::Image => image::run(),
        Command::Reference(args) => args.run(),
        Command::Forward(args) => args.run(),
        Command::Peer(peer) => peer.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
