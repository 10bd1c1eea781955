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
pub const USERS: usize = 8;

/// The duration of each measurement.
pub const DURATION: Duration = Duration::from_secs(5);

/// Complete logins: registration, authorization, consent, the issuer's page, callback, code.
pub async fn logins(proxy: &str, pid: i32) -> Result<Rate> {
    let proxy = proxy.to_owned();
    measure_rate(pid, move |number, counter| {
        let proxy = proxy.clone();
        async move {
            let browser = login::client()?;
            for count in 0.. {
                let email = format!("user-{number}-{count}@example.com");
                login::log_in(&browser, &proxy, &email).await?;
                if counter.count() {
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
    let users = (0..USERS).map(|number| async move {
        login::log_in(&login::client()?, proxy, &format!("refresher-{number}@example.com")).await
    });
    let (tokens, proxy) = (try_join_all(users).await?, proxy.to_owned());
    measure_rate(pid, move |number, counter| {
        let (proxy, mut current) = (proxy.clone(), tokens[number].clone());
        async move {
            let http = login::client()?;
            loop {
                current = login::refresh(&http, &proxy, &current).await?;
                if counter.count() {
                    return Ok(());
                }
            }
        }
    })
    .await
}

/// Counts operations until the time is over.
struct Counter {
    started: Instant,
    count: AtomicU64,
}

impl Counter {
    /// Counts an operation and returns whether the time is over.
    fn count(&self) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.started.elapsed() >= DURATION
    }
}

/// Runs the users on the load core.
async fn measure_rate<F>(pid: i32, work: impl Fn(usize, Arc<Counter>) -> F + Send + 'static) -> Result<Rate>
where
    F: Future<Output = Result<()>>,
{
    let users = thread::spawn(move || -> Result<Rate> {
        let mut cores = CpuSet::new();
        cores.set(LOAD_CORE.parse()?);
        sched_setaffinity(None, &cores)?;
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let counter = Arc::new(Counter { started: Instant::now(), count: AtomicU64::new(0) });
            let before = cpu_ticks(pid)?;
            try_join_all((0..USERS).map(|number| work(number, counter.clone()))).await?;
            let count = counter.count.load(Ordering::Relaxed);
            Ok(Rate::new(count, counter.started.elapsed(), cpu_ticks(pid)? - before))
        })
    });
    spawn_blocking(|| users.join().map_err(|_| anyhow!("the measurement panicked"))).await??
}
