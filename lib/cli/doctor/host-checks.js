'use strict';

const { execFile } = require('node:child_process');

const { version } = require('../../../package.json');
const { loadNative } = require('../../native.js');
const { findDaemon } = require('../../platform.js');
const { check } = require('./result.js');

const RUN_TIMEOUT_MS = 5000;

/** Bits of capabilities(7). */
const CAP_NET_BIND_SERVICE = 10n;
const CAP_NET_ADMIN = 12n;

const TUN = '/dev/net/tun';

/** Whether the parts of this package are there, and belong together. */
async function checkPackage() {
  return [checkAddon(), await checkDaemon()];
}

function checkAddon() {
  const { ok, fail } = check('addon');
  try {
    const found = loadNative().version();
    if (found === version)
      return ok(`smartvpn ${version}, Node ${process.versions.node}, ${process.platform}-${process.arch}`);
    return fail(`the addon is of version ${found}, the package of ${version}`, 'npm install smartvpn');
  } catch (error) {
    return fail(error.message, 'npm install smartvpn');
  }
}

function checkDaemon() {
  const { ok, warn } = check('daemon');
  let path;
  try {
    path = findDaemon();
  } catch (error) {
    return warn(error.message, 'npm install smartvpn');
  }
  return new Promise((resolve) => {
    execFile(path, ['--version'], { timeout: RUN_TIMEOUT_MS, killSignal: 'SIGKILL' }, (error, stdout) => {
      const found = /\d+\.\d+\.\d+\S*/.exec(stdout)?.[0];
      if (error) resolve(warn(`${path} does not run: ${error.message.trim()}`, 'npm install smartvpn'));
      else if (found !== version) {
        resolve(warn(`${path} is of version ${found}, the package of ${version}`, 'npm install smartvpn'));
      } else resolve(ok(path));
    });
  });
}

/**
 * What a client or a server needs of the host. Without a configuration, what either may need.
 *
 * @param {import('./host.js').Host} host
 * @param {{ mode: 'client' | 'server', config: Record<string, any> }} [loaded]
 * @returns {Promise<import('./result.js').Result[]>}
 */
async function checkHost(host, loaded) {
  const { mode, config } = loaded ?? {};
  const masquerades = config?.enableNat === true;
  const results = [checkPrivileges(host), checkTun(host)];
  if (mode !== 'client' && (masquerades || !loaded)) {
    results.push(await checkNft(host, masquerades), checkForwarding(host, masquerades));
  }
  if (mode !== 'server') results.push(checkResolvers(host));
  if (mode !== 'client') results.push(await checkClock(host));
  results.push(checkSystemd(host));
  return results.filter(Boolean);
}

function checkPrivileges(host) {
  const { ok, fail } = check('privileges');
  const has = (bit) => ((host.capabilities >> bit) & 1n) === 1n;
  const who = host.isRoot ? 'root' : 'this user';
  if (has(CAP_NET_ADMIN)) {
    const ports = has(CAP_NET_BIND_SERVICE) ? '' : ', without CAP_NET_BIND_SERVICE for ports below 1024';
    return ok(`${who}, with CAP_NET_ADMIN${ports}`);
  }
  if (host.isRoot) {
    return fail(
      'root, but without CAP_NET_ADMIN: a container that may not change its network',
      'docker run --cap-add NET_ADMIN --device /dev/net/tun …',
    );
  }
  return fail('not root, and without CAP_NET_ADMIN', 'sudo npx smartvpn …');
}

function checkTun(host) {
  const { ok, fail } = check('TUN device');
  const error = host.openError(TUN);
  switch (error) {
    case null:
      return ok(TUN);
    case 'EACCES':
    case 'EPERM':
      return fail(
        host.isRoot ? `${TUN} may not be opened here` : `${TUN} may only be opened by its owner`,
        host.isRoot ? 'docker run --device /dev/net/tun …' : `sudo chmod 0666 ${TUN}`,
      );
    case 'ENOENT':
    case 'ENODEV':
    case 'ENXIO':
      return fail(
        `there is no ${TUN}`,
        `${host.sudo('modprobe tun')}; in a container: docker run --device ${TUN} …`,
      );
    default:
      return fail(`${TUN} cannot be opened: ${error}`, host.sudo('modprobe tun'));
  }
}

/** `needed` by a configuration; otherwise it may be. */
async function checkNft(host, needed) {
  const { ok, warn, fail } = check('nft');
  const miss = needed ? fail : warn;
  const path = host.program('nft');
  if (!path)
    return miss('the program nft is missing, which enableNat needs', host.installCommand('nftables'));
  const { code, stderr } = await host.run(path, ['list', 'tables']);
  if (code === 0) return ok(path);
  const words = stderr.trim().split('\n')[0] || `it ended with ${code}`;
  if (/not permitted/i.test(words))
    return warn(`${path}; whether it works can only be seen as root`, 'sudo npx smartvpn doctor');
  return miss(`${path} does not work: ${words}`, host.sudo('modprobe nf_tables'));
}

function checkForwarding(host, needed) {
  const { ok, warn, fail } = check('forwarding');
  const path = '/proc/sys/net/ipv4/conf/all/forwarding';
  if (host.read(path)?.trim() === '1') return ok('on for IPv4');
  const error = host.writeError(path);
  if (error === null) return ok('off; a server with enableNat turns it on while it serves');
  const miss = needed ? fail : warn;
  if (error === 'EROFS')
    return miss('off, and /proc/sys is read-only', 'docker run --sysctl net.ipv4.ip_forward=1 …');
  return warn('off; a server with enableNat turns it on, as root', 'sudo sysctl -w net.ipv4.ip_forward=1');
}

function checkResolvers(host) {
  const { ok, warn } = check('resolvers');
  const path = '/etc/resolv.conf';
  const text = host.read(path);
  if (text === undefined)
    return warn(`there is no ${path}: names cannot be looked up`, `write "nameserver 9.9.9.9" into ${path}`);
  const target = host.link(path);
  const servers = Array.from(text.matchAll(/^\s*nameserver\s+(\S+)/gm), ([, server]) => server);
  if (servers.length === 0)
    return warn(`${path} names no resolver`, `write "nameserver 9.9.9.9" into ${path}`);
  const list = servers.join(', ');
  if (/systemd\/resolve/.test(target ?? '') || servers.every((server) => /^127\.0\.0\.5[34]$/.test(server))) {
    return ok(`${list}, by systemd-resolved`);
  }
  if (/resolvconf/.test(target ?? '')) return ok(`${list}, by resolvconf`);
  return ok(`${list}, in ${path}${target ? `, a link to ${target}` : ''}`);
}

/** Only what systemd knows: a client's check compares with its server. */
async function checkClock(host) {
  const path = host.program('timedatectl');
  if (!path || !host.exists('/run/systemd/system')) return undefined;
  const { code, stdout } = await host.run(path, ['show', '--property=NTPSynchronized', '--value']);
  if (code !== 0) return undefined;
  const { ok, warn } = check('clock');
  if (stdout.trim() === 'yes') return ok('synchronised');
  return warn('not synchronised; certificates are judged by it', host.sudo('timedatectl set-ntp true'));
}

function checkSystemd(host) {
  const { ok, warn } = check('systemd');
  if (host.exists('/run/systemd/system')) return ok('runs; `smartvpn install` writes a service');
  return warn('does not run here: `smartvpn install` has no use, `smartvpn up` has');
}

module.exports = { checkHost, checkPackage };
