/**
 * The network of one measurement, and what runs in it:
 *
 *     client 10.77.0.2 ── 10.77.0.1 server        veth, MTU 1500
 *        └── 10.79.0.1 nowhere                    swallows what has no way: a tunnel that is not up yet
 *     tunnel 10.78.0.2 …… 10.78.0.1               MTU 1420
 *
 * No namespace has a name and no file lies outside of them, so that they vanish with what runs in them.
 */
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { createAuthority } from '../scripts/certificates.mjs';
import { Lab } from '../scripts/lab.mjs';
import { CONGESTION_CONTROL } from './congestion.mjs';
import { neighbours } from './processes.mjs';

export const UPLINK = { server: '10.77.0.1', client: '10.77.0.2' };
export const TUNNEL = {
  server: '10.78.0.1',
  client: '10.78.0.2',
  network: '10.78.0.0',
  netmask: '255.255.255.0',
  prefix: 24,
  mtu: 1420,
};

/** Where the files of peers lie, in each host for itself. */
export const FOLDER = '/run/bench';

/** How long programs may take to come up, and tunnels to answer. */
const START_TIMEOUT_MS = 20_000;

/** How long programs may take to end before they are killed. */
const END_TIMEOUT_MS = 2_000;

/** How much of a program's output is kept for the message when it fails. */
const TAIL_CHARS = 1_000;

const authority = createAuthority('smartvpn bench authority');
const certificates = {
  authority: authority.certificate,
  server: authority.issue(['server', UPLINK.server]),
  client: authority.issue(['client'], { client: true }),
};

/** @typedef {{ name: string, pid: number, child: import('node:child_process').ChildProcess, tail(): string, ended(): boolean }} Program */

/**
 * @typedef {object} Tunnel
 * @property {{ client: number[], server: number[] }} pids the tunnel's own processes
 * @property {string} serverTunnelAddress where the client reaches the server through it
 * @property {() => Promise<void>} close
 */

export class Site {
  /** @type {import('../scripts/lab.mjs').Host} */
  client;
  /** @type {import('../scripts/lab.mjs').Host} */
  server;
  /** @type {number | null} when the peer's client was started, by `performance.now()` */
  clientStarted = null;

  #lab;
  #programs = [];

  static async open() {
    const site = new Site();
    site.#lab = await Lab.open();
    try {
      await site.#build();
    } catch (error) {
      await site.close();
      throw error;
    }
    return site;
  }

  async #build() {
    const lab = this.#lab;
    [this.client, this.server] = await Promise.all([lab.host('client'), lab.host('server')]);
    await lab.cable(
      { host: this.client, name: 'eth0', addresses: [`${UPLINK.client}/24`] },
      { host: this.server, name: 'eth0', addresses: [`${UPLINK.server}/24`] },
    );
    await lab.cable(
      { host: this.client, name: 'eth1', addresses: ['10.79.0.2/24'] },
      { host: lab.internet, name: 'eth1', addresses: ['10.79.0.1/24'] },
    );
    await this.client.ip(['route add default via 10.79.0.1']);
    await Promise.all(this.#hosts().map((host) => this.#prepare(host)));
  }

  async #prepare(host) {
    const { authority: trusted, ...ends } = certificates;
    const { certificate, key } = host === this.server ? ends.server : ends.client;
    await host.sh(`echo ${CONGESTION_CONTROL} > /proc/sys/net/ipv4/tcp_congestion_control`);
    await Promise.all(
      Object.entries({ 'ca.crt': trusted, 'own.crt': certificate, 'own.key': key }).map(([name, text]) =>
        this.put(host, name, text),
      ),
    );
  }

  #hosts() {
    return [this.client, this.server].filter(Boolean);
  }

  /** Writes a file for one host, which its owner alone may read, and returns its path there. */
  async put(host, name, text, mode = '600') {
    const path = `${FOLDER}/${name}`;
    await host.exec(['sh', '-ec', `umask 077; mkdir -p ${FOLDER}; cat > "$0"; chmod ${mode} "$0"`, path], {
      input: text,
    });
    return path;
  }

  /**
   * Starts a program on the server.
   *
   * @returns {Program}
   */
  startServer(argv, env) {
    return this.#start(this.server, argv, env);
  }

  /** The same on the client; the time that the tunnel takes counts from now. */
  startClient(argv, env) {
    this.clientStarted = performance.now();
    return this.#start(this.client, argv, env);
  }

  /** Starts a program that is none of the peer's. */
  startLoad(host, argv) {
    return this.#start(host, argv);
  }

  #start(host, argv, env) {
    const child = host.spawn(argv, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    let tail = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (tail = (tail + text).slice(-TAIL_CHARS)));
    }
    const program = {
      name: basename(argv[0]),
      pid: child.pid,
      child,
      tail: () => tail.trim(),
      ended: () => child.exitCode !== null || child.signalCode !== null,
    };
    this.#programs.push(program);
    return program;
  }

  /** The end of what each program has printed that has printed anything. */
  lastWords() {
    return this.#programs.map(({ tail }) => tail()).filter(Boolean);
  }

  /** Resolves when a program listens. */
  async listens(host, program, protocol, port) {
    const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
    // Without IPv6 there is no table of it.
    const tables = [protocol, `${protocol}6`]
      .map((table) => `/proc/${host.pid}/net/${table}`)
      .filter((path) => existsSync(path));
    const isThere = () =>
      tables
        .flatMap((path) => readFileSync(path, 'utf8').split('\n'))
        .map((line) => line.trim().split(/\s+/))
        .some(([, local, , state]) => local?.endsWith(wanted) && (protocol === 'udp' || state === '0A'));
    for (const end = performance.now() + START_TIMEOUT_MS; !isThere(); await sleep(5)) {
      if (program.ended() || performance.now() > end) {
        throw new Error(`${program.name} does not serve ${protocol} ${port}`);
      }
    }
  }

  /**
   * Sends echo requests, 5 ms apart, until the first one is answered.
   *
   * @returns {Promise<number>} when it was, by `performance.now()`
   */
  async firstReply(address) {
    const seconds = START_TIMEOUT_MS / 1000;
    const { code, stdout } = await this.client.exec(
      ['ping', '-n', '-q', '-c', '1', '-i', '0.005', '-w', `${seconds}`, address],
      { check: false, timeoutMs: START_TIMEOUT_MS + 2_000 },
    );
    if (code !== 0) throw new Error(`The tunnel did not answer within ${seconds} s: ${stdout.trim()}`);
    return performance.now();
  }

  /**
   * What `start` of a peer returns.
   *
   * @param {{ client?: Program[], server?: Program[] }} programs
   * @returns {Tunnel}
   */
  tunnel({ client = [], server = [] }, serverTunnelAddress = TUNNEL.server) {
    const pids = (programs) => programs.map(({ pid }) => pid);
    return {
      pids: { client: pids(client), server: pids(server) },
      serverTunnelAddress,
      close: async () => {
        await Promise.all([...client, ...server].map(finish));
      },
    };
  }

  /** Ends everything; the namespaces go with it. */
  async close() {
    // What a program forked does not end with this process by itself.
    for (const pid of this.#hosts().flatMap((host) => neighbours(host.pid))) kill(pid);
    await this.#lab.close();
  }
}

async function finish({ child, ended }) {
  if (ended()) return;
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), END_TIMEOUT_MS);
  await exit;
  clearTimeout(timer);
}

function kill(pid) {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}
