/** What a daemon may do while it works, and what others see of its memory. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { Daemon, folder, notBuilt } from './support/daemon.mjs';
import { authority, clientConfig, requires, SERVER, serverConfig, useSite, WEB } from './support/site.mjs';
import { eventually, reaches } from './support/traffic.mjs';

const NET_BIND_SERVICE = 1n << 10n;
const NET_ADMIN = 1n << 12n;

/** The user that owns what is not root's. */
const SOMEBODY = 1;

describe('a daemon at work', { skip: requires('setpriv') || notBuilt }, () => {
  const site = useSite();

  it('has no rights but those that it needs, started by root', async (t) => {
    const server = await run(t, site.server, 'server', serverConfig({ listenAddr: `${SERVER.address}:443` }));
    const routes = ['0.0.0.0/0'];
    const client = await run(
      t,
      site.client,
      'client',
      clientConfig({ serverUrl: `wss://${SERVER.address}/`, routes, dns: [WEB.address] }),
    );
    await eventually(async () => assert.equal(await reaches(site.client, WEB.address), true));
    const { stdout } = await site.client.exec(['cat', '/etc/resolv.conf']);
    assert.ok(stdout.includes(WEB.address), 'it has set the resolvers');

    for (const [{ child }, kept] of [
      [server, NET_ADMIN | NET_BIND_SERVICE],
      [client, NET_ADMIN],
    ]) {
      const threads = readdirSync(`/proc/${child.pid}/task`);
      assert.ok(threads.length > 1);
      for (const thread of threads) {
        const rights = rightsOf(`${child.pid}/task/${thread}`);
        assert.deepEqual(rights, { CapInh: 0n, CapPrm: kept, CapEff: kept, CapBnd: kept, CapAmb: 0n });
      }
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
      assert.match(status, /^NoNewPrivs:\t1$/m);
      assert.match(readFileSync(`/proc/${child.pid}/limits`, 'utf8'), /^Max core file size +0 +0 /m);
    }
    assert.deepEqual(await client.end(), [0, null], client.output);
    assert.deepEqual(await server.end(), [0, null], server.output);
    await site.assertAsFound();
  });

  it('works as a user with CAP_NET_ADMIN, and hides its memory from that user', async (t) => {
    const rights = '+net_admin,+net_bind_service,+sys_time';
    const wrap = ['setpriv', '--reuid', `${SOMEBODY}`, '--regid', `${SOMEBODY}`, '--clear-groups'];
    wrap.push('--inh-caps', rights, '--ambient-caps', rights, '--');
    const config = serverConfig({ stateDir: undefined });
    const server = await run(t, site.server, 'server', config, { wrap, owner: SOMEBODY });
    await eventually(async () => (await site.connect()).agent);
    assert.equal(await reaches(site.client, WEB.address), true, 'nft has what it needs');

    const kept = NET_ADMIN | NET_BIND_SERVICE;
    const { CapBnd: _, ...held } = rightsOf(server.child.pid);
    assert.deepEqual(held, { CapInh: kept, CapPrm: kept, CapEff: kept, CapAmb: kept });
    assert.match(readFileSync(`/proc/${server.child.pid}/status`, 'utf8'), /^NoNewPrivs:\t1$/m);

    const other = spawn('setpriv', ['--reuid', `${SOMEBODY}`, '--clear-groups', 'sleep', '60']);
    t.after(() => other.kill());
    await eventually(() => assert.match(readFileSync(`/proc/${other.pid}/comm`, 'utf8'), /sleep/));
    const look = (pid) => ['--reuid', `${SOMEBODY}`, '--clear-groups', 'head', '-c1', `/proc/${pid}/environ`];
    execFileSync('setpriv', look(other.pid), { stdio: 'ignore' });
    assert.throws(() => execFileSync('setpriv', look(server.child.pid), { stdio: 'pipe' }), /denied/);
    assert.equal(statSync(`/proc/${server.child.pid}/mem`).uid, 0);
    assert.deepEqual(await server.end(), [0, null], server.output);
  });

  it('reads its configuration with root’s rights, and other files with its own', async (t) => {
    const { certificate, key } = authority.issue([SERVER.address]);
    await write(site.server, '/run/key.pem', key, SOMEBODY);
    await write(site.server, '/run/cert.pem', certificate, 0);
    const config = { ...serverConfig({ tlsCert: '/run/cert.pem', tlsKey: '/run/key.pem' }) };
    const refused = await run(t, site.server, 'server', config, { owner: SOMEBODY });
    assert.deepEqual(await refused.ended, [1, null]);
    const { code, message } = JSON.parse(refused.stdout).error;
    assert.equal(code, 'file-error');
    assert.ok(message.endsWith("chown root '/run/key.pem'"), message);
    await site.server.sh(message.split(': ').at(-1));
    const server = await run(t, site.server, 'server', config, { owner: SOMEBODY });
    const { agent } = await eventually(() => site.connect());
    await agent.close();
    assert.deepEqual(await server.end(), [0, null], server.output);
    await site.server.exec(['rm', '/run/key.pem', '/run/cert.pem']);
  });

  it('refuses a TLS key that others can read, with the command that mends it', async (t) => {
    const { certificate, key } = authority.issue([SERVER.address]);
    const file = "/run/it's a key.pem";
    await write(site.server, file, key, 0);
    const config = serverConfig({ tlsCert: certificate, tlsKey: file });
    await site.server.exec(['chmod', '604', file]);
    const refused = await run(t, site.server, 'server', config);
    assert.deepEqual(await refused.ended, [1, null]);
    const { code, message } = JSON.parse(refused.stdout).error;
    assert.equal(code, 'file-error');
    const agent = await site.agent(site.server);
    const vpn = await agent.server();
    await assert.rejects(vpn.start(config), (error) => error.code === code && error.message === message);
    const [, command] = /\(mode 0604\): (chmod 600 .*)$/.exec(message);
    await site.server.sh(command);
    await vpn.start(config);
    await site.server.exec(['rm', file]);
  });

  it('leaves no core', async (t) => {
    const path = folder(t);
    // As large as is allowed, in a folder where it can be.
    const wrap = ['sh', '-c', `ulimit -c "$(ulimit -H -c)"; cd ${path}; exec "$@"`, 'sh'];
    const cores = () => readdirSync(path).filter((name) => name.startsWith('core'));
    const args = ['--management-socket', join(path, 'socket'), '--mode', 'client'];
    const daemon = new Daemon(t, args, { wrap });
    await daemon.hears();
    assert.deepEqual(await daemon.end('SIGABRT'), [null, 'SIGABRT']);
    assert.deepEqual(cores(), []);

    const other = spawn(wrap[0], [...wrap.slice(1), 'sleep', '60']);
    await eventually(() => assert.match(readFileSync(`/proc/${other.pid}/comm`, 'utf8'), /sleep/));
    other.kill('SIGABRT');
    await once(other, 'exit');
    if (cores().length === 0) t.diagnostic('other programs leave none in their folder either');
  });
});

/** The daemon with a configuration file that belongs to `owner`. */
async function run(t, host, mode, config, { owner = 0, ...options } = {}) {
  const file = `/run/${mode}.json`;
  await write(host, file, JSON.stringify(config), owner);
  return new Daemon(t, ['--config', file, '--mode', mode], { host, ...options });
}

async function write(host, file, text, owner) {
  await host.exec(['sh', '-c', `umask 077; cat > "$1"; chown ${owner} "$1"`, 'sh', file], { input: text });
}

/** The capability sets of a process or thread. */
function rightsOf(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const sets = status.matchAll(/^(Cap\w+):\t([0-9a-f]+)$/gm);
  return Object.fromEntries(Array.from(sets, ([, name, bits]) => [name, BigInt(`0x${bits}`)]));
}
