/** Servers as processes that can be killed and started again: the VPN's daemon, and nginx in front of it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { isIPv4 } from 'node:net';

import { DAEMON } from './daemon.mjs';
import { moment } from './flow.mjs';
import { authority, PORT, SERVER, serverConfig } from './site.mjs';
import { eventually } from './traffic.mjs';

/** Until a server listens. */
const PATIENCE_MS = 20_000;

/** How often it is looked whether one does, in milliseconds. */
const LOOK_MS = 5;

/** In `/proc/net/tcp`. */
const LISTENS = '0A';

const FOLDER = '/run/lab';

/** Where the daemon listens, and without TLS, when it has a proxy in front of it. */
export const BEHIND_PROXY = { listenAddr: '127.0.0.1:8080', tlsCert: undefined, tlsKey: undefined };

/** Whether somebody listens on an IPv4 address and port of a host. */
function listens(host, address, port) {
  const hex = (number, digits) => number.toString(16).toUpperCase().padStart(digits, '0');
  const bytes = address.split('.').map(Number).toReversed();
  const local = `${bytes.map((byte) => hex(byte, 2)).join('')}:${hex(port, 4)}`;
  return readFileSync(`/proc/${host.pid}/net/tcp`, 'latin1')
    .split('\n')
    .some((line) => line.includes(` ${local} `) && line.split(/\s+/)[4] === LISTENS);
}

/** Resolves with the moment at which somebody listens there, or rejects when the process has ended. */
async function untilListening(host, listenAddr, child, complaint) {
  const [address, port] = listenAddr.split(':');
  assert.ok(isIPv4(address), listenAddr);
  for (const deadline = moment() + PATIENCE_MS; !listens(host, address, Number(port));) {
    assert.ok(child.exitCode === null && child.signalCode === null && moment() < deadline, complaint());
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
  return moment();
}

/** Writes a file that only its owner may read. */
function write(host, path, text) {
  return host.exec(['sh', '-ec', 'umask 077; cat > "$0"', path], { input: text });
}

/** A VPN server in a daemon of its own, from a configuration file: `smartvpn_daemon --config FILE --mode server`. */
export class ServerProcess {
  /** @type {string} what it has printed to stderr, over all its lives */
  stderr = '';

  #host;
  #file;
  #listenAddr;
  #spawned;
  #child;

  /**
   * Starts one on the site's server host, which the site closes at the end of the test. `spawned` is told the id of each
   * process before it has done anything.
   */
  static async start(site, config, { spawned = () => {} } = {}) {
    const settings = serverConfig(config);
    const server = new ServerProcess(site.server, settings.listenAddr, spawned);
    await write(site.server, server.#file, JSON.stringify(settings));
    site.adopt(server);
    await server.start();
    return server;
  }

  constructor(host, listenAddr, spawned) {
    this.#host = host;
    this.#file = `${FOLDER}/server.json`;
    this.#listenAddr = listenAddr;
    this.#spawned = spawned;
  }

  /** The daemon's process: what enters the host's namespaces becomes it. */
  get pid() {
    return this.#child.pid;
  }

  /** Starts it, and resolves with the moment at which it listens. */
  start() {
    const argv = [DAEMON, '--config', this.#file, '--mode', 'server'];
    this.#child = this.#host.spawn(argv, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#spawned(this.#child.pid);
    this.#child.stderr.setEncoding('utf8').on('data', (text) => (this.stderr += text));
    return untilListening(this.#host, this.#listenAddr, this.#child, () => `no server: ${this.stderr}`);
  }

  /** Sends it a signal and waits for its end. */
  async kill(signal = 'SIGKILL') {
    const ended = once(this.#child, 'exit');
    this.#child.kill(signal);
    const [code, by] = await ended;
    return { code, signal: by };
  }

  get running() {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  async close() {
    return this.running ? this.kill('SIGTERM') : { code: 0, signal: null };
  }
}

/** nginx on the site's server host, that ends TLS on the usual address and has the daemon behind it. */
export class Nginx {
  stderr = '';

  #child;

  static async start(site) {
    const nginx = new Nginx();
    const { certificate, key } = authority.issue([SERVER.address]);
    await write(site.server, `${FOLDER}/nginx.crt`, certificate);
    await write(site.server, `${FOLDER}/nginx.key`, key);
    await write(site.server, `${FOLDER}/nginx.conf`, NGINX);
    // In a process namespace of its own, whose end takes the workers along, however it comes about.
    const argv = ['unshare', '--pid', '--fork', '--kill-child', 'nginx', '-c', `${FOLDER}/nginx.conf`];
    nginx.#child = site.server.spawn(argv, { stdio: ['ignore', 'ignore', 'pipe'] });
    nginx.#child.stderr.setEncoding('utf8').on('data', (text) => (nginx.stderr += text));
    site.adopt(nginx);
    await untilListening(site.server, `${SERVER.address}:${PORT}`, nginx.#child, () => nginx.stderr);
    return nginx;
  }

  /** Workers of before, each of which serves on until its connections end or its time is up. */
  get workers() {
    return children(this.#master).length;
  }

  /** Reads its configuration again, as `nginx -s reload` makes it; resolves when the new worker is alone. */
  async reload() {
    const [before] = children(this.#master);
    process.kill(this.#master, 'SIGHUP');
    await eventually(() => assert.ok(!children(this.#master).includes(before)), PATIENCE_MS);
  }

  get running() {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  async close() {
    const ended = once(this.#child, 'exit');
    if (this.running) {
      process.kill(this.#master, 'SIGTERM');
      await ended;
    }
    return { code: this.#child.exitCode, signal: this.#child.signalCode };
  }

  get #master() {
    return children(this.#child.pid)[0];
  }
}

function children(pid) {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').split(' ').filter(Boolean).map(Number);
}

const NGINX = `
daemon off;
user root;
worker_processes 1;
worker_shutdown_timeout 1s;
pid ${FOLDER}/nginx.pid;
error_log stderr error;
events {}
http {
  access_log off;
  client_body_temp_path ${FOLDER}/nginx-body;
  proxy_temp_path ${FOLDER}/nginx-proxy;
  fastcgi_temp_path ${FOLDER}/nginx-fastcgi;
  uwsgi_temp_path ${FOLDER}/nginx-uwsgi;
  scgi_temp_path ${FOLDER}/nginx-scgi;
  server {
    listen ${SERVER.address}:${PORT} ssl;
    ssl_certificate ${FOLDER}/nginx.crt;
    ssl_certificate_key ${FOLDER}/nginx.key;
    location / {
      proxy_pass http://${BEHIND_PROXY.listenAddr};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
    }
  }
}
`;
