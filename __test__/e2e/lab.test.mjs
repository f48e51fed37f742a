/** The laboratory itself: what the other tests rest on, shown without any VPN. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { createAuthority } from '../../scripts/certificates.mjs';
import { requires, SERVER, useSite, WEB } from './support/site.mjs';
import { eventually, fetchDigest, fetchText, iperf, ping, reaches } from './support/traffic.mjs';
import { digest } from '../../scripts/lab-web.mjs';

describe('the laboratory', { skip: requires('curl', 'dig', 'iperf3') }, () => {
  const site = useSite({ clients: 2 });

  it('keeps the public host out of reach of clients', async () => {
    assert.equal(await reaches(site.client, SERVER.address), true);
    assert.equal(await reaches(site.client, SERVER.address6), true);
    assert.equal(await reaches(site.client, WEB.address), false);
    assert.equal(await reaches(site.client, WEB.address6), false);
  });

  it('lets the public host answer translated clients only', async () => {
    const route = `${WEB.network} via 10.90.0.2`;
    await site.client.ip([`route add ${WEB.network} via 10.90.1.1`]);
    await site.internet.ip([`route add ${route}`]);
    await site.server.sh('echo 1 > /proc/sys/net/ipv4/ip_forward');
    assert.equal(await reaches(site.client, WEB.address), false);

    const rules =
      'table ip by-hand { chain out { type nat hook postrouting priority srcnat; oifname "lan" masquerade; }; }';
    await site.server.exec(['nft', '-f', '-'], { input: rules });
    await site.serveWeb();
    const url = `http://${WEB.address}`;
    assert.equal(await reaches(site.client, WEB.address), true);
    assert.match(await fetchText(site.client, `${url}/`), /You came from 203\.0\.113\.1\./);
    assert.equal(await fetchDigest(site.client, `${url}/random/5000000`), digest(5_000_000));
    const { stdout } = await site.client.exec(['dig', '+short', `@${WEB.address}`, 'web.test']);
    assert.equal(stdout.trim(), WEB.address);
    assert.ok((await iperf(site.client, site.web, WEB.address)).sum_received.bytes > 1_000_000);
    assert.match(
      (await ping(site.client, WEB.address, { size: 1473, dontFragment: true })).output,
      /message too long/,
    );

    await site.server.sh('nft delete table ip by-hand; echo 0 > /proc/sys/net/ipv4/ip_forward');
    await site.internet.ip([`route del ${route}`]);
    await site.client.ip([`route del ${WEB.network}`]);
  });

  it('sees every change that a VPN could leave behind', async () => {
    const changes = {
      addresses: ['ip addr add 192.0.2.1/32 dev lo', 'ip addr del 192.0.2.1/32 dev lo'],
      interfaces: ['ip tuntap add dev left0 mode tun', 'ip link del left0'],
      routes: ['ip route add 192.0.2.0/24 via 10.90.1.1', 'ip route del 192.0.2.0/24'],
      'IPv6 routes': [
        'ip -6 route add unreachable ::/0 metric 1',
        'ip -6 route del unreachable ::/0 metric 1',
      ],
      rules: ['ip rule add from 192.0.2.1 table 7', 'ip rule del from 192.0.2.1 table 7'],
      firewall: ['nft add table inet left', 'nft delete table inet left'],
      forwarding: [
        'echo 1 > /proc/sys/net/ipv4/conf/eth0/forwarding',
        'echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding',
      ],
      resolvers: [
        'cp -p /etc/resolv.conf /run/kept; echo nameserver 192.0.2.1 > /etc/resolv.conf',
        'mv /run/kept /etc/resolv.conf',
      ],
    };
    for (const [what, [change, undo]] of Object.entries(changes)) {
      await site.client.sh(change);
      await assert.rejects(site.assertAsFound(), /not as they were found/, what);
      await site.client.sh(undo);
      await site.assertAsFound();
    }
  });

  it('vanishes with its maker, however that ends', async () => {
    const script = `
      import { openSite } from '${new URL('../../scripts/lab-site.mjs', import.meta.url)}';
      const { server, clients } = await openSite();
      const agent = await server.agent();
      console.log([server.pid, clients[0].pid, agent.pid].join(' '));
    `;
    const maker = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = await once(maker.stdout.setEncoding('utf8'), 'data');
    maker.kill('SIGKILL');
    await once(maker, 'exit');
    await eventually(() => {
      for (const pid of line.trim().split(' ')) assert.equal(isAlive(pid), false, `process ${pid} lives on`);
    });
  });
});

describe('certificates', () => {
  it('hold the names and times asked for and the authority’s signature', () => {
    const authority = createAuthority();
    const ca = new X509Certificate(authority.certificate);
    const notBefore = new Date('2020-01-02T03:04:05Z');
    const notAfter = new Date('2051-01-02T03:04:05Z'); // as GeneralizedTime
    const { certificate } = authority.issue(['10.0.0.1', 'vpn.test', '2001:db8::1:2'], {
      notBefore,
      notAfter,
    });
    const leaf = new X509Certificate(certificate);

    assert.equal(ca.ca, true);
    assert.equal(leaf.ca, false);
    assert.equal(leaf.checkIssued(ca) && leaf.verify(ca.publicKey), true);
    assert.equal(leaf.verify(new X509Certificate(createAuthority().certificate).publicKey), false);
    assert.equal(leaf.checkIP('10.0.0.1'), '10.0.0.1');
    assert.equal(leaf.checkIP('2001:db8::1:2'), '2001:db8::1:2');
    assert.equal(leaf.checkHost('vpn.test'), 'vpn.test');
    assert.equal(leaf.checkHost('other.test'), undefined);
    assert.deepEqual([new Date(leaf.validFrom), new Date(leaf.validTo)], [notBefore, notAfter]);
  });
});

function isAlive(pid) {
  try {
    return !/^\d+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
