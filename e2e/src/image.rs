//! Container images `FROM scratch`, each with one static binary, built without a daemon.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};

use crate::{program, progress::Progress, run::cache_directory};

/// The public CA certificates, for a proxy with a real issuer.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// glibc keeps 16 freed chunks per size for reuse instead of 7. This saves about 3 % of the CPU time of a request
/// (bench/HISTORY.md, P1).
pub const MALLOC_TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=16");
/// Numeric, because the image has no /etc/passwd.
const USER: &str = "65532:65532";

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// Name and tag.
    pub reference: String,
    /// In the format of `docker save`, which containerd, kind and k3d accept.
    pub archive: PathBuf,
}

impl Image {
    pub fn name(&self) -> &str {
        self.reference.rsplit_once(':').map_or(&self.reference, |(name, _)| name)
    }

    pub fn tag(&self) -> &str {
        self.reference.rsplit_once(':').map_or("", |(_, tag)| tag)
    }
}

/// The operator's image, built from this tree.
pub fn operator() -> Result<Image> {
    let progress = Progress::default();
    progress.print("building the static binary (the first time takes 4 minutes)");
    // Link-time optimisation takes minutes after each change. E2E_PROFILE=dev skips it during development.
    let profile = env::var("E2E_PROFILE").unwrap_or_else(|_| "release".to_owned());
    let image = build("mcp-oauth-operator", &static_binary(&profile)?, Some(Path::new(CERTIFICATES)))?;
    progress.print(format!("image {}", image.reference));
    Ok(image)
}

/// The static binary of this tree, built with a Cargo profile.
pub fn static_binary(profile: &str) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let root = workspace();
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        // With --target, the flags do not apply to build scripts and procedural macros, which cannot be static. Packed
        // relocations save one MiB of file size and three of memory, because every page with relocations is written at
        // startup.
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args([
            "build",
            "--quiet",
            "--locked",
            "--profile",
            profile,
            "--bin",
            "mcp-oauth-operator",
            "--target",
            &target,
        ])
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the static binary does not build");
    }
    let target_directory = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(root.join(target_directory).join(target).join(folder).join("mcp-oauth-operator"))
}

/// The image of pod sandboxes (see pause/pause.rs).
pub fn pause() -> Result<Image> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("pause/pause.rs");
    let built = tempfile::tempdir()?;
    let binary = built.path().join("pause");
    // The tag is a digest of the source, so it is known before the build.
    let image = image_for("mcp-oauth-pause", &fs::read(&source)?)?;
    if image.archive.exists() {
        return Ok(image);
    }
    program::output(
        Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition", "2024", "-C", "opt-level=s", "-C", "strip=symbols"])
            .args(["-C", "target-feature=+crt-static", "-o"])
            .arg(&binary)
            .arg(&source),
    )?;
    pack(&image, "mcp-oauth-pause", &binary, None)?;
    Ok(image)
}

/// Builds an image of one static binary. Its tag is a digest of its content, so different binaries have different tags.
pub fn build(name: &str, binary: &Path, certificates: Option<&Path>) -> Result<Image> {
    let mut content = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    content.extend_from_slice(MALLOC_TUNABLES.1.as_bytes());
    let image = image_for(name, &content)?;
    if !image.archive.exists() {
        prune_older(name, &image)?;
        pack(&image, name, binary, certificates)?;
    }
    Ok(image)
}

/// The reference and archive path for this name and content.
fn image_for(name: &str, content: &[u8]) -> Result<Image> {
    let digest: String = digest(&SHA256, content).as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let directory = cache_directory()?.join("images");
    fs::create_dir_all(&directory)?;
    Ok(Image {
        reference: format!("localhost/{name}:{digest}"),
        archive: directory.join(format!("{name}-{digest}.tar")),
    })
}

/// Deletes older images of the same name except for the newest four.
fn prune_older(name: &str, image: &Image) -> Result<()> {
    let Some(directory) = image.archive.parent() else { return Ok(()) };
    let mut archives: Vec<_> = fs::read_dir(directory)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{name}-")))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    archives.sort();
    for (_, path) in archives.iter().rev().skip(4) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

fn pack(image: &Image, name: &str, binary: &Path, certificates: Option<&Path>) -> Result<()> {
    // A temporary folder, also for buildah's storage, so that concurrent builds do not interfere.
    let work = tempfile::tempdir()?;
    let context = work.path().join("context");
    fs::create_dir_all(&context)?;
    fs::copy(binary, context.join(name))?;
    let mut containerfile = format!("FROM scratch\nCOPY {name} /{name}\n");
    if let Some(certificates) = certificates {
        fs::copy(certificates, context.join("ca-certificates.crt"))
            .with_context(|| format!("no {}: apt-get install --yes ca-certificates", certificates.display()))?;
        containerfile.push_str(&format!(
            "COPY ca-certificates.crt {CERTIFICATES}\nENV {}={}\n",
            MALLOC_TUNABLES.0, MALLOC_TUNABLES.1
        ));
    }
    containerfile.push_str(&format!("USER {USER}\nENTRYPOINT [\"/{name}\"]\n"));
    fs::write(context.join("Containerfile"), containerfile)?;

    let context = context.display().to_string();
    buildah(work.path(), &["bud", "--isolation", "chroot", "--tag", &image.reference, &context])?;
    // Renamed when complete: an archive with the final name is never partial.
    let partial = work.path().join("image.tar");
    let target = format!("docker-archive:{}:{}", partial.display(), image.reference);
    buildah(work.path(), &["push", &image.reference, &target])?;
    let directory = image.archive.parent().context("an archive is in a folder")?;
    let beside = tempfile::NamedTempFile::new_in(directory)?;
    fs::copy(&partial, beside.path())?;
    beside.persist(&image.archive)?;
    Ok(())
}

fn buildah(work: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program::find("buildah", "buildah")?);
    command.arg("--root").arg(work.join("root")).arg("--runroot").arg(work.join("runroot"));
    program::output(command.args(["--storage-driver", "vfs"]).args(arguments)).map(drop)
}

/// The root of the repository.
pub fn workspace() -> &'static Path {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR"));
    e2e.parent().unwrap_or(e2e)
}

/// `e2e image`
pub fn run() -> Result<()> {
    let image = operator()?;
    println!("{} {}", image.reference, image.archive.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_reference_has_name_and_tag() {
        let image = Image { reference: "localhost/a:12".to_owned(), archive: PathBuf::new() };
        assert_eq!((image.name(), image.tag()), ("localhost/a", "12"));
    }
}
