/**
 * Reverse proxies as Debian packages them, set up with the README's snippets as they stand there: in a host of
 * a lab, whose `/etc` is its own, the name and the certificate's paths of the README can be the real ones.
 */
import { existsSync, readFileSync } from 'node:fs';

import { SERVER } from '../../../scripts/lab-site.mjs';
import readme from '../../support/readme.js';
import { start } from './program.mjs';
import { authority, requires } from './site.mjs';
import { eventually } from './traffic.mjs';

const { SNIPPETS } = readme;

/** What the README calls the server. */
export const NAME = 'vpn.example.com';

const LIVE = `/etc/letsencrypt/live/${NAME}`;

/** How Debian's HAProxy is run, but for `-db`: in the foreground. */
const HAPROXY = {
  program: 'haproxy',
  folders: ['/run/haproxy'],
  command: ['haproxy', '-W', '-db', '-f', '/etc/haproxy/haproxy.cfg'],
  reload: 'SIGUSR2',
  impatience: { 'timeout client  50000': 'timeout client 8s', 'timeout server  50000': 'timeout server 8s' },
};

/**
 * By the name of the snippet:
 *
 * - `program`, and the `command` that runs it in the foreground;
 * - `folders` that it wants to write to, which are empty ones of the host's own;
 * - `prepare`: commands that the README tells to type;
 * - `reload`: the signal, or the command, that makes it read its configuration again, as Debian's service does;
 * - `impatience`: what to replace in its configuration so that it cuts what has been idle for a few seconds;
 * - `cuts`: how many times it may cut an idle tunnel when it is as patient as Debian has it; none unless given.
 */
export const PROXIES = {
  nginx: {
    program: 'nginx',
    folders: ['/var/lib/nginx', '/var/log/nginx'],
    command: ['nginx', '-g', 'daemon off;'],
    reload: 'SIGHUP',
    impatience: { 'proxy_http_version 1.1;': 'proxy_http_version 1.1; proxy_read_timeout 7s;' },
  },
  apache: {
    program: 'apache2',
    folders: ['/run/apache2', '/run/lock', '/var/lib/apache2', '/var/log/apache2'],
    prepare: 'a2enmod ssl proxy proxy_http',
    command: ['sh', '-c', '. /etc/apache2/envvars; exec apache2 -D FOREGROUND'],
    reload: 'SIGUSR1',
    // Not ProxyTimeout: a tunnel has the longer one of the client's side and the server's.
    impatience: { 'SSLEngine on': 'SSLEngine on\nTimeout 7' },
  },
  caddy: {
    program: 'caddy',
    folders: ['/run/caddy'],
    command: ['env', 'HOME=/run/caddy', 'caddy', 'run', '--config', '/etc/caddy/Caddyfile'],
    reload: ['caddy', 'reload', '--config', '/etc/caddy/Caddyfile', '--force'],
  },
  haproxy: { ...HAPROXY, cuts: 1 },
  'haproxy-tcp': { ...HAPROXY, cuts: 1 },
  stunnel: {
    program: 'stunnel4',
    folders: [],
    command: ['stunnel4', '/etc/stunnel/vpn.conf'],
    reload: 'SIGHUP',
    impatience: { 'connect = ': 'TIMEOUTidle = 7\nconnect = ' },
  },
};

/** For `skip`: why the proxy cannot be tried here, or `false`. */
export function missingProxy(name) {
  if (process.getuid?.() !== 0) return 'Needs root, as proxies change to users of their own.';
  if (!existsSync('/etc/debian_version')) return 'Needs the configuration files of Debian’s packages.';
  return requires('curl', PROXIES[name].program);
}

/** What the README says about the server behind the proxy. */
export function serverSettings(name) {
  return JSON.parse(SNIPPETS[`server-${name}`] ?? SNIPPETS.server);
}

/** Whether the proxy has the certificate, and not the server. */
export function endsTls(name) {
  return serverSettings(name).tlsCert === undefined;
}

/**
 * Sets a proxy up and starts it, and lets clients find it by its name.
 *
 * @param {{ server: import('../../../scripts/lab.mjs').Host, clients: import('../../../scripts/lab.mjs').Host[] }} site
 * @param {string} name
 * @param {{ impatient?: boolean }} [options]
 */
export async function startProxy({ server, clients }, name, { impatient = false } = {}) {
  const proxy = PROXIES[name];
  await Promise.all(clients.map((client) => client.sh(`echo ${SERVER.address} ${NAME} >> /etc/hosts`)));
  await certify(server);
  for (const folder of proxy.folders) {
    await server.sh(`mkdir -p ${folder}; mount -t tmpfs -o mode=755 lab ${folder}`);
  }
  if (proxy.prepare) await server.sh(proxy.prepare);
  await configure(server, name, impatient ? proxy.impatience : {});

  // A process namespace of its own, which ends with its first process: not a worker is left, however this ends.
  const unshare = ['unshare', '--pid', '--fork', '--kill-child', '--'];
  const started = start(server, [...unshare, ...proxy.command]);
  await eventually(async () => {
    if (started.child.exitCode !== null) throw new Error(`${name} has ended: ${started.output()}`);
    const { stdout } = await server.exec(['ss', '-Hltn', 'sport = :443']);
    if (stdout === '') throw new Error(`${name} does not listen: ${started.output()}`);
  });
  return {
    /** Lets it find a new certificate, which is returned, and read its configuration again. */
    renew: async () => {
      const certificate = await certify(server);
      await reload(server, started.child.pid, proxy);
      return certificate;
    },
    end: () => started.end('SIGKILL'),
  };
}

/** Puts a new certificate where the README says, and returns it. */
async function certify(host) {
  const { certificate, key } = authority.issue([NAME]);
  await write(host, `${LIVE}/fullchain.pem`, certificate);
  await write(host, `${LIVE}/privkey.pem`, key);
  await host.exec(['chmod', '600', `${LIVE}/privkey.pem`]);
  await write(host, `/etc/haproxy/${NAME}.pem`, certificate + key);
  return certificate;
}

/** Puts the snippet where its first line says. */
async function configure(host, name, replacements) {
  const snippet = SNIPPETS[name];
  const [, append, file] = /^[#;] (at the end of )?(\/etc\/\S+)\n/.exec(snippet);
  let text = (append ? readFileSync(file, 'utf8') : '') + snippet;
  for (const [from, to] of Object.entries(replacements)) {
    if (!text.includes(from)) throw new Error(`${name}: there is no "${from}" in ${file}`);
    text = text.replace(from, to);
  }
  await write(host, file, text);
}

async function reload(host, parent, { reload: how }) {
  if (Array.isArray(how)) {
    await host.exec(how);
    return;
  }
  const [child] = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8').split(' ');
  process.kill(Number(child), how);
}

async function write(host, file, text) {
  await host.exec(['sh', '-c', 'mkdir -p "${0%/*}" && cat > "$0"', file], { input: text });
}
