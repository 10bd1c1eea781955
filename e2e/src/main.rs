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
    Cluster(cluster::Args),
    /// Run the main use case and leave it running.
    Demo(demo::Args),
    /// Install the operator in the cluster.
    Operator(operator::Args),
    /// Build and download the components of the test bed, once.
    Prepare(prepare::Args),
    /// Run the tests that need the test bed, in a new one.
    Test(testing::Args),
    /// Benchmark the proxy against nginx, and write bench/RESULTS.md.
    Bench(bench::Args),
    /// Load the proxy for half an hour, including slow clients, and write bench/SOAK.md.
    Soak(bench::soak::Args),
    /// Build the operator's image.
    Image(image::Args),
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
        Command::Cluster(args) => args.run(),
        Command::Demo(args) => args.run(),
        Command::Operator(args) => args.run(),
        Command::Prepare(args) => args.run(),
        Command::Test(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Soak(args) => args.run(),
        Command::Image(args) => args.run(),
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
