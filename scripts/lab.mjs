/**
 * A network of Linux hosts on one machine, for the demo and the end-to-end tests.
 *
 * A host is a network namespace and a mount namespace of its own, with its own `/run`, `/etc` and
 * `/sys`; one small shell process holds both. No namespace has a name, no file lies outside them,
 * and every process of a lab dies with the process that made it. So a lab leaves nothing behind,
 * however it ends, SIGKILL included, and never touches the machine's own network.
 *
 * The first host, `lab.internet`, also owns the user namespace that the others live in when the
 * lab is made without root.
 */
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { once } from 'node:events';

import { Agent } from './lab-remote.mjs';
import { readHostState } from './lab-snapshot.mjs';
import { missingTools } from './tools.mjs';

/** How long a command of {@link Host#exec} may take, in milliseconds. */
const COMMAND_TIMEOUT_MS = 60_000;

/** Where a host keeps what the VPN wants to remember; in its private `/run`. */
export const STATE_DIR = '/run/lab/state';

/** Why no lab can be made here, or what failed while one was made; the message says what to do. */
export class LabError extends Error {
  name = 'LabError';
}

/** A command in a host that ended badly. */
export class CommandError extends Error {
  name = 'CommandError';

  constructor(host, argv, result) {
    const how = result.signal ? `was ended by ${result.signal}` : `exited with ${result.code}`;
    super(`${host}: ${argv.join(' ')} ${how}\n${result.stderr}${result.stdout}`.trim());
    Object.assign(this, result);
  }
}

export class Lab {
  /** @type {Host} the host that all others hang off; it holds the lab */
  internet;

  #hosts = [];
  #veths = 0;

  /** Makes a lab with one host, `internet`. Rejects with {@link LabError} where it can't. */
  static async open() {
    const missing = Lab.unavailable();
    if (missing) throw new LabError(missing);
    // The machine's proxy is not there for a lab's hosts.
    for (const name of ['https_proxy', 'HTTPS_PROXY']) delete process.env[name];
    const lab = new Lab();
    lab.internet = await lab.#hold('internet', ['unshare', ...userNamespace()]);
    return lab;
  }

  /**
   * What keeps this machine from making labs, in a sentence that says what to do; `null` when
   * nothing does.
   */
  static unavailable() {
    unavailable ??= { reason: findObstacle() };
    return unavailable.reason;
  }

  /** Adds a host without interfaces besides `lo`. */
  async host(name) {
    return this.#hold(name, [...this.internet.prefix, 'unshare']);
  }

  /**
   * Joins two hosts by a cable. Each end is `{ host, name, addresses }`, addresses in CIDR form.
   */
  async cable(a, b) {
    // Both ends are born under a name that is free in every host, and renamed where they belong.
    const id = this.#veths++;
    const born = [`veth${id}a`, `veth${id}b`];
    await a.host.exec([
      'ip',
      'link',
      'add',
      born[0],
      'type',
      'veth',
      'peer',
      'name',
      born[1],
      'netns',
      String(b.host.pid),
    ]);
    await Promise.all(
      [a, b].map(({ host, name, addresses }, index) =>
        host.ip([
          `link set ${born[index]} name ${name} up`,
          ...addresses.map((address) => `addr add ${address} dev ${name}`),
        ]),
      ),
    );
  }

  /** Ends every process of the lab; with them, its namespaces vanish. Idempotent. */
  async close() {
    await Promise.all(this.#hosts.map((host) => host.close()));
    this.#hosts = [];
  }

  async #hold(name, unshare) {
    const host = await Host.hold(name, [...unshare, '--mount', '--net', '--propagation', 'private']);
    this.#hosts.push(host);
    return host;
  }
}

export class Host {
  /** @type {string} */
  name;
  /** @type {number} the process that holds the namespaces; `nsenter --target` takes it */
  pid;
  /** @type {string[]} what to put before a command to run it in this host */
  prefix;

  #holder;
  #children = new Set();

  /** @private use {@link Lab#host} */
  static async hold(name, unshare) {
    const [command, ...args] = [...unshare, 'sh', '-c', SET_UP];
    const holder = spawn(command, args, { stdio: 'pipe' });
    const stderr = collect(holder.stderr);
    await Promise.race([
      once(holder.stdout, 'data'),
      once(holder, 'exit').then(([code]) => {
        throw new LabError(`Host ${name} could not be made (exit code ${code}): ${stderr.text.trim()}`);
      }),
    ]);
    return new Host(name, holder);
  }

  constructor(name, holder) {
    this.name = name;
    this.pid = holder.pid;
    this.#holder = holder;
    this.prefix = [
      'nsenter', '--target', String(holder.pid), '--mount', '--net',
      ...(isRoot() ? [] : ['--user', '--preserve-credentials']),
      '--', 'setpriv', '--pdeathsig', 'KILL',
    ]; // prettier-ignore
  }

  /** Starts a program in this host. It is killed when the lab closes or this process dies. */
  spawn(argv, options = {}) {
    const [command, ...args] = [...this.prefix, '--', ...argv];
    const child = spawn(command, args, options);
    this.#children.add(child);
    child.once('exit', () => this.#children.delete(child));
    child.once('error', () => this.#children.delete(child));
    return child;
  }

  /**
   * Runs a command to its end.
   *
   * @param {string[]} argv
   * @param {{ input?: string | Buffer, timeoutMs?: number, check?: boolean, env?: object }} [options]
   *   `check: false` resolves whatever the exit code; otherwise one other than 0 rejects
   * @returns {Promise<{ code: number | null, signal: string | null, stdout: string, stderr: string }>}
   */
  async exec(argv, { input, timeoutMs = COMMAND_TIMEOUT_MS, check = true, env } = {}) {
    const child = this.spawn(argv, { timeout: timeoutMs, killSignal: 'SIGKILL', env });
    const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)];
    child.stdin.on('error', () => {}); // a command that ends without reading its input
    child.stdin.end(input);
    const [code, signal] = await once(child, 'close');
    const result = { code, signal, stdout: stdout.text, stderr: stderr.text };
    if (check && code !== 0) throw new CommandError(this.name, argv, result);
    return result;
  }

  /** Runs a shell script; see {@link Host#exec}. */
  sh(script, options) {
    return this.exec(['sh', '-ec', script], options);
  }

  /** Runs lines of `ip` commands, each without the leading `ip`. */
  ip(lines) {
    return this.exec(['ip', '-batch', '-'], { input: `${lines.join('\n')}\n` });
  }

  /** Starts a Node process that does what {@link Agent#run} tells it. */
  agent(options) {
    return Agent.start(this, options);
  }

  /** What a VPN could change on this host; {@link differences} compares. */
  snapshot() {
    return readHostState(this);
  }

  /** Kills the processes started here, then lets the namespaces go. */
  async close() {
    const ended = [...this.#children].map((child) => {
      child.kill('SIGKILL');
      return once(child, 'exit');
    });
    await Promise.all(ended);
    if (this.#holder.exitCode !== null || this.#holder.signalCode !== null) return;
    this.#holder.stdin.end();
    await once(this.#holder, 'exit');
  }
}

/**
 * What the holder of a host does before it sits and waits for its input to end, which it does when
 * the maker of the lab closes it or dies.
 *
 * `/run` hides the machine's resolver, message bus and locks. `/etc` is a copy, so that
 * resolv.conf may be edited or replaced. A new network namespace inherits the machine's IPv4
 * settings, so forwarding is switched off again. Without duplicate address detection an IPv6
 * address is usable at once.
 */
const SET_UP = `
set -e
mount -t tmpfs -o mode=755 lab /run
mkdir -p /run/lab/etc /run/lab/work ${STATE_DIR}
mount -t overlay -o lowerdir=/etc,upperdir=/run/lab/etc,workdir=/run/lab/work lab /etc 2>/dev/null || {
  cp -R /etc/. /run/lab/etc 2>/dev/null || true
  mount --bind /run/lab/etc /etc
}
rm -f /etc/resolv.conf
echo 'nameserver 127.0.0.1' > /etc/resolv.conf
mount -t sysfs lab /sys 2>/dev/null || true
echo 0 > /proc/sys/net/ipv4/ip_forward
if [ -d /proc/sys/net/ipv6/conf ]; then
  for all in /proc/sys/net/ipv6/conf/*; do
    echo 0 > $all/disable_ipv6
    echo 0 > $all/forwarding
    echo 0 > $all/accept_dad
  done
fi
ip link set lo up
echo ready
exec cat > /dev/null
`;

let unavailable;

function findObstacle() {
  if (process.platform !== 'linux') {
    return `Network namespaces need Linux; this is ${process.platform}.`;
  }
  return missingTools(['ip', 'nsenter', 'setpriv', 'unshare']) ?? namespaceObstacle() ?? tunObstacle();
}

function namespaceObstacle() {
  const attempt = spawnSync(
    'unshare',
    [...userNamespace(), '--mount', '--net', 'mount', '-t', 'tmpfs', 'lab', '/run'],
    { encoding: 'utf8' },
  );
  if (attempt.status === 0) return null;
  const words = attempt.stderr.trim();
  if (isRoot()) {
    return `Root may not make network namespaces here (${words}). In a container, allow it: \`docker run --privileged …\`.`;
  }
  return (
    `This user may not make network namespaces (${words}). Run it as root, or allow user namespaces: ` +
    '`sudo sysctl -w user.max_user_namespaces=10000`; on Ubuntu also ' +
    '`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; on older Debian also ' +
    '`sudo sysctl -w kernel.unprivileged_userns_clone=1`.'
  );
}

function tunObstacle() {
  const device = '/dev/net/tun';
  if (!statSync(device, { throwIfNoEntry: false })?.isCharacterDevice()) {
    return `There is no ${device}. Load the driver with \`sudo modprobe tun\`; in a container, pass \`--device ${device}\`.`;
  }
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
    return null;
  } catch {
    return `This user may not open ${device}. Run it as root, or allow it: \`sudo chmod 0666 ${device}\`.`;
  }
}

/** The options of `unshare` that let a user who is not root make the rest. */
function userNamespace() {
  return isRoot() ? [] : ['--user', '--map-root-user'];
}

function isRoot() {
  return process.getuid?.() === 0;
}

/** Gathers a stream's text as it comes. */
function collect(stream) {
  const gathered = { text: '' };
  stream.setEncoding('utf8').on('data', (chunk) => (gathered.text += chunk));
  return gathered;
}
