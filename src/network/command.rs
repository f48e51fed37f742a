//! Other programs, run without a shell: a fixed search path, an argument vector, a time limit.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/")
        // Ctrl-C is meant for the program, which then puts the host back, and needs this child for it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // All three pipes at once: a child that waits for one of them must not make us wait for another.
    let (status, stdout, stderr) = thread::scope(|scope| {
        let writer = scope.spawn(move || feed(stdin, input));
        let reader = scope.spawn(move || drain(stdout));
        let complaints = scope.spawn(move || drain(stderr));
        let status = wait(&mut child, limit);
        // What could not be fed shows in the exit status.
        let _ = writer.join();
        (status, reader.join().unwrap_or_default(), complaints.join().unwrap_or_default())
    });
    Ok(Output { status: status?, stdout, stderr: String::from_utf8_lossy(&stderr).trim().to_owned() })
}

fn find(program: &str) -> Option<PathBuf> {
    SEARCH.iter().map(|directory| Path::new(directory).join(program)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn feed(stdin: Option<impl Write>, input: &[u8]) -> io::Result<()> {
    // Dropping the pipe at the end is what tells the child that this was all.
    stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input))
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
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
