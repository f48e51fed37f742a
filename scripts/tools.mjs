/** The system's tools that the demo and the tests call, and how to come by them. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** The package of each tool, by the distribution's package manager; what is not here is in util-linux. */
const PACKAGES = {
  'apt-get': { apache2: 'apache2', caddy: 'caddy', curl: 'curl', dig: 'bind9-dnsutils', ethtool: 'ethtool', haproxy: 'haproxy', ip: 'iproute2', iperf3: 'iperf3', nft: 'nftables', nginx: 'nginx-light', ping: 'iputils-ping', socat: 'socat', strace: 'strace', stunnel4: 'stunnel4', 'systemd-socket-activate': 'systemd', tcpdump: 'tcpdump' },
  dnf: { curl: 'curl', dig: 'bind-utils', ethtool: 'ethtool', ip: 'iproute', iperf3: 'iperf3', nft: 'nftables', nginx: 'nginx', ping: 'iputils', socat: 'socat', strace: 'strace', 'systemd-socket-activate': 'systemd', tcpdump: 'tcpdump' },
  pacman: { curl: 'curl', dig: 'bind', ethtool: 'ethtool', ip: 'iproute2', iperf3: 'iperf3', nft: 'nftables', nginx: 'nginx', ping: 'iputils', socat: 'socat', strace: 'strace', 'systemd-socket-activate': 'systemd', tcpdump: 'tcpdump' },
  zypper: { curl: 'curl', dig: 'bind-utils', ethtool: 'ethtool', ip: 'iproute2', iperf3: 'iperf', nft: 'nftables', nginx: 'nginx', ping: 'iputils', socat: 'socat', strace: 'strace', 'systemd-socket-activate': 'systemd', tcpdump: 'tcpdump' },
  apk: { curl: 'curl', dig: 'bind-tools', ethtool: 'ethtool', ip: 'iproute2', iperf3: 'iperf3', nft: 'nftables', nginx: 'nginx', ping: 'iputils-ping', socat: 'socat', strace: 'strace', 'systemd-socket-activate': 'systemd', tcpdump: 'tcpdump' },
}; // prettier-ignore

/** What comes before the packages' names. */
const INSTALL = {
  'apt-get': 'apt-get install',
  dnf: 'dnf install',
  pacman: 'pacman -S',
  zypper: 'zypper install',
  apk: 'apk add',
};

/** Whether a program of that name is on the path. */
export function hasTool(tool) {
  return spawnSync('sh', ['-c', 'command -v "$0"', tool], { stdio: 'ignore' }).status === 0;
}

/**
 * Why the tools cannot be used, in a sentence with the command that installs what is missing;
 * `null` when all are there.
 */
export function missingTools(tools) {
  const missing = tools.filter((tool) => !hasTool(tool));
  if (missing.length === 0) return null;
  const names = missing.map((tool) => `\`${tool}\``).join(', ');
  const manager = Object.keys(INSTALL).find(hasTool);
  const advice = manager
    ? `: \`sudo ${INSTALL[manager]} ${packages(manager, missing).join(' ')}\``
    : '; install it with the package manager of this system';
  return `${missing.length === 1 ? 'A program is' : 'Programs are'} missing (${names})${advice}.`;
}

/**
 * Installs the missing ones where that may be done without asking: as root on Debian, Ubuntu and
 * their relatives.
 *
 * @param {string[]} tools
 * @param {(sentence: string) => void} announce told what is going to be done, before it is done
 * @returns {string | null} why tools are still missing
 */
export function installTools(tools, announce) {
  const missing = tools.filter((tool) => !hasTool(tool));
  if (missing.length === 0 || !mayInstall()) return missingTools(tools);
  const names = packages('apt-get', missing);
  announce(`Installing ${names.join(', ')} with apt-get`);
  const install = () => aptGet('install', '--yes', '--no-install-recommends', ...names);
  // The package lists of a fresh machine are empty or old.
  const failure = install() && (aptGet('update') || install());
  return failure ? `apt-get could not install ${names.join(', ')}:\n${failure}` : missingTools(tools);
}

function packages(manager, tools) {
  return [...new Set(tools.map((tool) => PACKAGES[manager][tool] ?? 'util-linux'))];
}

function mayInstall() {
  return process.getuid?.() === 0 && hasTool('apt-get') && isDebianLike();
}

function isDebianLike() {
  try {
    const release = readFileSync('/etc/os-release', 'utf8');
    return /^ID(_LIKE)?=.*\b(debian|ubuntu)\b/m.test(release);
  } catch {
    return false;
  }
}

/** Runs apt-get without questions; returns its complaint if it fails. */
function aptGet(...args) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const { status, stderr, error } = spawnSync('apt-get', ['-qq', ...args], { env, encoding: 'utf8' });
  return status === 0 ? null : (error?.message ?? stderr.trim());
}
