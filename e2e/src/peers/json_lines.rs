//! A client program with JSON lines on standard input and output, and the user who logs in when it requests that.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::browser::{Browser, FinalPage};
use crate::progress::tail;

/// Longer than any login, shorter than the clients' own timeouts.
pub const LIMIT: Duration = Duration::from_secs(90);

/// A user who logs in with a browser.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    pub browser: &'a Browser,
    pub email: &'a str,
}

impl User<'_> {
    /// Logs in at a client's login URL and returns the final page: the client's redirect URI with a code.
    pub async fn log_in(self, login_url: &str) -> Result<FinalPage> {
        let final_page = self.browser.login(login_url, self.email).await?;
        if final_page.parameter("code").is_none() {
            bail!("the login ended at {}: {}", final_page.url, final_page.text);
        }
        Ok(final_page)
    }
}

/// Starts a program with pipes for input and output, and its standard error appended to the log. It is killed when
/// dropped.
pub fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let errors = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let name = command.as_std().get_program().display().to_string();
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start {name}"))
}

/// A running program. It is killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    log: std::path::PathBuf,
}

impl Program {
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let mut child = spawn(command, log)?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { child, input, output, log: log.to_owned() })
    }

    pub async fn write_line(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await.with_context(|| self.exited_error())?;
        Ok(self.input.flush().await?)
    }

    /// Reads the next line; `None` at the end of the output.
    pub async fn read_line(&mut self) -> Result<Option<String>> {
        Ok(timeout(LIMIT, self.output.next_line()).await.with_context(|| self.timeout_error())??)
    }

    /// Closes the program's input, waits for its exit and returns the exit code, if no signal ended it.
    pub async fn finish(self) -> Result<Option<i32>> {
        let Self { mut child, input, output: _output, log: _ } = self;
        drop(input);
        Ok(timeout(LIMIT, child.wait()).await.context("the program did not exit")??.code())
    }

    /// Reads the next line as JSON.
    pub async fn read_json(&mut self) -> Result<Value> {
        let Some(line) = self.read_line().await? else { bail!(self.exited_error()) };
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }

    fn exited_error(&self) -> String {
        format!("the client exited. Its log {}:{}", self.log.display(), tail(&self.log))
    }

    pub(super) fn timeout_error(&self) -> String {
        format!(
            "the client did not respond for {} s. Its log {}:{}",
            LIMIT.as_secs(),
            self.log.display(),
            tail(&self.log)
        )
    }
}
