//! P7: complete logins and refreshes, with a minimal login page.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use futures::future::try_join_all;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::{runtime, task::spawn_blocking};

use super::{
    cores::LOAD_CORE,
    login,
    measure::{Rate, cpu_ticks},
};

/// The number of concurrent users.
pub const PEOPLE: usize = 8;

/// The duration of each measurement.
pub const DURATION: Duration = Duration::from_secs(5);

/// Complete logins: registration, authorization, consent, the issuer's page, callback, code.
pub async fn logins(proxy: &str, pid: i32) -> Result<Rate> {
    let proxy = proxy.to_owned();
    measured(pid, move |number, done| {
        let proxy = proxy.clone();
        async move {
            let browser = login::client()?;
            for count in 0.. {
                let person = format!("person-{number}-{count}@example.com");
                login::log_in(&browser, &proxy, &person).await?;
                if done.count() {
                    break;
                }
            }
            Ok(())
        }
    })
    .await
}

/// The issuer to which a proxy redirects.
pub async fn issuer(proxy: &str) -> Result<String> {
    Ok(login::to_issuer(&login::client()?, proxy).await?.1.origin().ascii_serialization())
}

/// Refreshes, each with the tokens of the previous one.
pub async fn refreshes(proxy: &str, pid: i32) -> Result<Rate> {
    let people = (0..PEOPLE).map(|number| async move {
        login::log_in(&login::client()?, proxy, &format!("refresher-{number}@example.com")).await
    });
    let (tokens, proxy) = (try_join_all(people).await?, proxy.to_owned());
    measured(pid, move |number, done| {
        let (proxy, mut current) = (proxy.clone(), tokens[number].clone());
        async move {
            let http = login::client()?;
            loop {
                current = login::refresh(&http, &proxy, &current).await?;
                if done.count() {
                    return Ok(());
                }
            }
        }
    })
    .await
}

/// Counts operations until the time is over.
struct Done {
    begun: Instant,
    count: AtomicU64,
}

impl Done {
    /// Counts an operation and returns whether the time is over.
    fn count(&self) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.begun.elapsed() >= DURATION
    }
}

/// Runs the users on the load core.
async fn measured<F>(pid: i32, work: impl Fn(usize, Arc<Done>) -> F + Send + 'static) -> Result<Rate>
where
    F: Future<Output = Result<()>>,
{
    let people = thread::spawn(move || -> Result<Rate> {
        let mut cores = CpuSet::new();
        cores.set(LOAD_CORE.parse()?);
        sched_setaffinity(None, &cores)?;
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let done = Arc::new(Done { begun: Instant::now(), count: AtomicU64::new(0) });
            let before = cpu_ticks(pid)?;
            try_join_all((0..PEOPLE).map(|number| work(number, done.clone()))).await?;
            let count = done.count.load(Ordering::Relaxed);
            Ok(Rate::new(count, done.begun.elapsed(), cpu_ticks(pid)? - before))
        })
    });
    spawn_blocking(|| people.join().map_err(|_| anyhow!("the measurement panicked"))).await??
}
