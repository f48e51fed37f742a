/** Real programs that send packets, and what they saw. */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Sends echo requests with `ping`.
 *
 * @param {import('../../../scripts/lab.mjs').Host} host
 * @param {string} target
 * @param {{ count?: number, intervalSecs?: number, size?: number, dontFragment?: boolean, source?: string }} [options]
 *   `size` is that of the payload: 28 bytes less than the IPv4 packet, 48 less than the IPv6 one;
 *   `dontFragment` is the flag in the packet: unless it is given, the kernel sets it as it sees fit
 * @returns {Promise<{ sent: number, received: number, duplicates: number, maxMs?: number, averageMs?: number, output: string }>}
 */
export async function ping(
  host,
  target,
  { count = 3, intervalSecs = 0.05, size = 56, dontFragment, source } = {},
) {
  const argv = ['ping', '-n', '-W', '1', '-c', `${count}`, '-i', `${intervalSecs}`, '-s', `${size}`];
  if (dontFragment !== undefined) argv.push('-M', dontFragment ? 'do' : 'dont');
  if (source) argv.push('-I', source);
  const { stdout, stderr } = await host.exec([...argv, target], { check: false });
  const [, sent, received] = /(\d+) packets transmitted, (\d+) received/.exec(stdout) ?? [0, 0, 0];
  const [, , average, max] = /= ([\d.]+)\/([\d.]+)\/([\d.]+)/.exec(stdout) ?? [];
  return {
    sent: Number(sent),
    received: Number(received),
    duplicates: (stdout.match(/DUP!/g) ?? []).length,
    averageMs: average && Number(average),
    maxMs: max && Number(max),
    output: stdout + stderr,
  };
}

/** Whether at least one of a few echo requests is answered. */
export async function reaches(host, target, options) {
  return (await ping(host, target, options)).received > 0;
}

/**
 * Sends data with iperf3, for a second unless `--bytes` says how much, from `host` to a server on `peer`.
 *
 * @param {string[]} [args] further arguments: `-R` to receive, `-P 4`, `-u -b 20M`
 * @returns {Promise<object>} the `end` part of iperf3's report
 */
export async function iperf(host, peer, address, args = []) {
  const server = peer.spawn(['iperf3', '--server', '--one-off', '--forceflush'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(server, 'exit');
  await once(server.stdout, 'data'); // it prints when it listens
  server.stdout.resume();
  try {
    const end = args.includes('--bytes') ? [] : ['--time', '1'];
    const { stdout } = await host.exec(['iperf3', '--json', ...end, '--client', address, ...args]);
    await ended;
    return JSON.parse(stdout).end;
  } finally {
    server.kill('SIGKILL');
  }
}

/**
 * Looks at what passes an interface, from now until `stop()`. `packets` grows: whole IP packets, as
 * they are on the interface, or as much of each as `snap` says.
 *
 * @param {import('../../../scripts/lab.mjs').Host} host
 * @param {string} device
 * @param {string} filter in tcpdump's language
 * @param {{ snap?: number }} [options]
 * @returns {Promise<{ packets: Buffer[], stop(): Promise<void> }>}
 */
export async function capture(host, device, filter, { snap = 0 } = {}) {
  const tcpdump = host.spawn([
    'tcpdump', '-i', device, '-n', '-s', `${snap}`, '-U', '--immediate-mode', '-w', '-', filter,
  ]); // prettier-ignore
  const packets = [];
  let linkHeader;
  let unread = Buffer.alloc(0);
  tcpdump.stdout.on('data', (chunk) => {
    unread = Buffer.concat([unread, chunk]);
    if (linkHeader === undefined && unread.length >= PCAP_HEADER) {
      linkHeader = LINK_HEADERS[unread.readUInt32LE(20)];
      unread = unread.subarray(PCAP_HEADER);
    }
    while (linkHeader !== undefined && unread.length >= RECORD_HEADER) {
      const end = RECORD_HEADER + unread.readUInt32LE(8);
      if (unread.length < end) return;
      packets.push(unread.subarray(RECORD_HEADER + linkHeader, end));
      unread = unread.subarray(end);
    }
  });
  await once(tcpdump.stderr, 'data'); // it says that it listens
  const stop = async () => {
    const ended = once(tcpdump, 'close');
    tcpdump.kill('SIGINT');
    await ended;
  };
  return { packets, stop };
}

/** Lengths in a pcap file, and of the link-layer header by the file's link type: Ethernet, none. */
const PCAP_HEADER = 24;
const RECORD_HEADER = 16;
const LINK_HEADERS = { 1: 14, 101: 0 };

/** Fetches a URL with curl and resolves with its text. */
export async function fetchText(host, url, ...args) {
  return (await host.exec(['curl', '--silent', '--show-error', '--max-time', '30', ...args, url])).stdout;
}

/** Fetches a URL with curl and resolves with the SHA-256 of what came, in hex. */
export async function fetchDigest(host, url) {
  const { stdout } = await host.sh(`curl --silent --show-error --fail --max-time 60 '${url}' | sha256sum`);
  return stdout.split(' ')[0];
}

/** The packet and byte counters of an interface: `received` is what came in by it. */
export async function counters(host, name) {
  const { stdout } = await host.exec(['ip', '-json', '-statistics', 'link', 'show', 'dev', name]);
  const [{ stats64 }] = JSON.parse(stdout);
  return {
    received: { packets: stats64.rx.packets, bytes: stats64.rx.bytes },
    sent: { packets: stats64.tx.packets, bytes: stats64.tx.bytes },
  };
}

/** The host's interface that bears the address, as `ip -json` describes it; `undefined` if there is none. */
export async function interfaceWith(host, address) {
  const { stdout } = await host.exec(['ip', '-json', 'address']);
  return JSON.parse(stdout).find(({ addr_info }) => addr_info.some(({ local }) => local === address));
}

/**
 * Tries again and again until `check` no longer throws.
 *
 * @template T
 * @param {() => T | Promise<T>} check
 * @returns {Promise<T>}
 */
export async function eventually(check, timeoutMs = 5_000) {
  for (const deadline = Date.now() + timeoutMs; ;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(50);
    }
  }
}
