//! CoreDNS, the cluster's names and `*.localhost`.

use std::{fs, path::Path};

use anyhow::Result;

use super::{
    kubeconfig::inside_kubeconfig,
    setup::{Setup, text},
};
use crate::run::NODE_ADDRESS;

/// Starts CoreDNS on the node's address.
pub fn start(setup: &Setup<'_>) -> Result<()> {
    let file = setup.path("Corefile");
    fs::write(&file, corefile(&inside_kubeconfig(setup.run)))?;
    setup.start("coredns", setup.tools.coredns(), &["-conf".to_owned(), text(&file)])
}

/// `*.localhost` is the node: a browser takes such a name for its own machine (RFC 6761 §6.3), where a forwarder listens,
/// and a pod finds the same program at the same port here. So one URL is good on either side.
fn corefile(kubeconfig: &Path) -> String {
    format!(
        "localhost:53 {{
    bind {NODE_ADDRESS}
    errors
    template IN A {{
        answer \"{{{{ .Name }}}} 60 IN A {NODE_ADDRESS}\"
    }}
    template ANY ANY {{
        rcode NOERROR
    }}
}}
.:53 {{
    bind {NODE_ADDRESS}
    errors
    kubernetes cluster.local {{
        kubeconfig {kubeconfig}
        ttl 5
    }}
    cache 5
}}
",
        kubeconfig = kubeconfig.display()
    )
}
