//! Hosts of client metadata documents that stand in for claude.ai and cursor.com: at public addresses inside the run's
//! network namespace, with certificates that the standalone proxy trusts.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::json;

use super::{certificates::Certificates, nginx};
use crate::{
    program,
    run::{NODE_ADDRESS, Run},
};

const NAME: &str = "document-host";

/// A public address, visible only in the namespace.
const PUBLIC_ADDRESS: &str = "160.79.104.10";

/// The running hosts: `claude.ai` at a public address, `www.cursor.com` at a private one.
#[derive(Clone, Debug)]
pub struct DocumentHost {
    run: Run,
    hosts: PathBuf,
}

/// The URL of Claude Code's metadata document.
pub const CLAUDE_CODE: &str = "https://claude.ai/oauth/claude-code-client-metadata";

impl DocumentHost {
    /// Starts the hosts. The run needs a network namespace.
    pub async fn up(run: &Run) -> Result<Self> {
        let namespace = run.namespace().context("hosts at public addresses need a network namespace")?;
        let folder = run.directory().join(NAME);
        fs::create_dir_all(&folder)?;
        let host = Self { run: run.clone(), hosts: folder.join("hosts") };
        let names =
            format!("127.0.0.1 localhost\n{NODE_ADDRESS} login.localhost www.cursor.com\n{PUBLIC_ADDRESS} claude.ai\n");
        fs::write(&host.hosts, names)?;
        program::output(Command::new("ip").args(["-netns", &namespace, "address", "replace"]).args([
            &format!("{PUBLIC_ADDRESS}/32"),
            "dev",
            "lo",
        ]))?;
        let document = |id: &str| {
            json!({
                "client_id": id,
                "client_name": "Claude Code",
                "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
                "grant_types": ["authorization_code", "refresh_token"],
                "token_endpoint_auth_method": "none",
            })
            .to_string()
        };
        // Too long for an inline response in nginx's configuration.
        fs::write(folder.join("large.json"), " ".repeat(6 * 1024))?;
        nginx::start(run, NAME, &servers(&Certificates::for_run(run)?, document)).await?;
        Ok(host)
    }

    /// A command in the run's namespace that resolves these hosts.
    pub fn command(&self, program: &std::path::Path) -> Result<Command> {
        let mut command = self.run.command("unshare");
        // Replaces /etc/hosts for this command only.
        command.args(["--mount", "--", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
        command.arg(&self.hosts).arg(program);
        command.env("SSL_CERT_FILE", Certificates::for_run(&self.run)?.authority());
        Ok(command)
    }

    /// The requested documents, with their hosts: `claude.ai/oauth/claude-code-client-metadata`.
    pub fn requested_documents(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.run.log(NAME))?;
        Ok(log.lines().filter_map(|line| line.strip_prefix("requested ")).map(str::to_owned).collect())
    }
}

fn servers(certificates: &Certificates, document: impl Fn(&str) -> String) -> String {
    let (certificate, key) = (certificates.certificate(), certificates.key());
    let (certificate, key) = (certificate.display(), key.display());
    let (claude_code, cursor) = (document(CLAUDE_CODE), document("https://www.cursor.com/private"));
    let elsewhere = document("https://claude.ai/elsewhere");
    format!(
        r#"  log_format requested 'requested $host$uri';
  access_log off;
  server {{
    listen {PUBLIC_ADDRESS}:443 ssl;
    listen {NODE_ADDRESS}:443 ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    access_log /dev/stdout requested;
    default_type application/json;
    add_header Cache-Control "max-age=300";
    location = /oauth/claude-code-client-metadata {{ return 200 '{claude_code}'; }}
    location = /private {{ return 200 '{cursor}'; }}
    location = /moved {{ return 302 https://claude.ai/oauth/claude-code-client-metadata; }}
    location = /not-itself {{ return 200 '{elsewhere}'; }}
    location = /large {{ alias large.json; }}
  }}"#
    )
}
