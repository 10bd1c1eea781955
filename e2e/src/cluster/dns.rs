//! CoreDNS: cluster names and `*.localhost`.

use std::{fs, path::Path};

use anyhow::Result;

use super::{
    kubeconfig::namespace_kubeconfig,
    setup::{Setup, text},
};
use crate::run::NODE_ADDRESS;

/// Starts CoreDNS on the node's address.
pub fn start(setup: &Setup<'_>) -> Result<()> {
    let file = setup.path("Corefile");
    fs::write(&file, corefile(&namespace_kubeconfig(setup.run)))?;
    setup.start("coredns", setup.tools.coredns(), &["-conf".to_owned(), text(&file)])
}

/// `*.localhost` resolves to the node, so that one URL works on the host and in pods. A browser on the host resolves
/// such a name to loopback (RFC 6761 §6.3), where a forwarder listens on the same port.
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
