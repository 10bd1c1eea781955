//! The command `e2e`: starts, shows and stops the test bed and its components.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use e2e::{bench, cluster, demo, forward, image, operator, peers, prepare, testing};

#[derive(Parser)]
#[command(about = "The test bed: real components on one machine", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The Kubernetes cluster.
    Cluster(cluster::Args),
    /// The main job, end to end, left running to try.
    Demo(demo::Args),
    /// The operator, as a pod of the cluster.
    Operator(operator::Args),
    /// Build and fetch what the bed is made of, once.
    Prepare(prepare::Args),
    /// Run the tests that need the bed, on a bed of their own.
    Test(testing::Args),
    /// Measure the proxy beside nginx, and write bench/RESULTS.md.
    Bench(bench::Args),
    /// Load the proxy for half an hour, slow clients among it, and write bench/SOAK.md.
    Soak(bench::soak::Args),
    /// Build the operator's image.
    Image(image::Args),
    /// Carry ports of this machine's loopback into a run's network namespace (started by the bed itself).
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
