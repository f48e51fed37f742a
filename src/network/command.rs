//! Other programs, run without a shell: a fixed search path, an argument vector, a time limit.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

/// Where programs are looked for: a daemon's `PATH` may lack the administrator's directories, and
/// nobody else's `PATH` is trusted.
const SEARCH: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
/// How often a running child is looked after.
const POLL: Duration = Duration::from_millis(2);

/// What a program that ran to its end has said.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

/// Runs a program with `input` on its standard input. `NotFound` if the host has no such program;
/// `TimedOut` if it was killed because it took longer than `limit`.
pub(super) fn run(program: &str, arguments: &[&str], input: &[u8], limit: Duration) -> io::Result<Output> {
    let path = find(program)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{program} is not installed")))?;
    // Files in memory, not pipes: a service that the program starts may hold them open for ever.
    let (mut stdin, mut stdout, mut stderr) = (memory()?, memory()?, memory()?);
    stdin.write_all(input)?;
    stdin.rewind()?;
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/")
        // Ctrl-C is meant for the program, which then puts the host back, and needs this child for it.
        .process_group(0)
        .stdin(stdin)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()?;
    let status = wait(&mut child, limit)?;
    let (stdout, stderr) = (content(&mut stdout)?, content(&mut stderr)?);
    Ok(Output { status, stdout, stderr: String::from_utf8_lossy(&stderr).trim().to_owned() })
}

fn memory() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("smartvpn", MemfdFlags::CLOEXEC)?.into())
}

fn content(file: &mut File) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn find(program: &str) -> Option<PathBuf> {
    SEARCH.iter().map(|directory| Path::new(directory).join(program)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[expect(clippy::disallowed_methods, reason = "a child process is waited for in real time")]
fn wait(child: &mut Child, limit: Duration) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}")));
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn passes_more_than_a_pipe_holds() {
        let input = vec![b'x'; 1 << 20];
        let output = run("cat", &[], &input, LONG).unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, input);
    }

    #[test]
    fn does_not_care_for_a_child_that_does_not_read() {
        let output = run("true", &[], &vec![b'x'; 1 << 20], LONG).unwrap();
        assert!(output.status.success());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "real time is what is tested")]
    fn does_not_wait_for_what_the_program_leaves_running() {
        let begun = Instant::now();
        let output = run("sh", &["-c", "sleep 5 & echo started; echo so >&2"], b"", LONG).unwrap();
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"started\n"[..], "so"));
        assert!(begun.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn tells_a_missing_program_from_a_failing_one() {
        let missing = run("smartvpn-no-such-program", &[], b"", LONG).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let failing = run("cat", &["/smartvpn-no-such-file"], b"", LONG).unwrap();
        assert!(!failing.status.success());
        assert!(failing.stderr.contains("/smartvpn-no-such-file"), "{}", failing.stderr);
    }

    #[test]
    fn gives_a_child_a_process_group_of_its_own() {
        let stat = run("cat", &["/proc/self/stat"], b"", LONG).unwrap().stdout;
        let stat = String::from_utf8(stat).unwrap();
        let fields: Vec<&str> = stat.split(' ').collect();
        let (pid, group) = (fields[0], fields[4]);
        assert_eq!(group, pid, "{stat}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "real time is what is tested")]
    fn kills_what_takes_too_long() {
        let begun = Instant::now();
        let error = run("sleep", &["60"], b"", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < LONG);
    }
}
