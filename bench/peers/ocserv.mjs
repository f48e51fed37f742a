/** ocserv and openconnect: packets in TLS over TCP. */
import { FOLDER, TUNNEL, UPLINK } from '../site.mjs';
import { findProgram, missingPrograms, versionOf } from '../programs.mjs';

const PORT = 4443;

/** What ocserv takes off its `mtu` for IP and for its own header. */
const HEADERS = 28;

const CONFIG = `
auth = "certificate"
tcp-port = ${PORT}
run-as-user = root
run-as-group = root
socket-file = ${FOLDER}/ocserv.sock
use-occtl = false
isolate-workers = false
server-cert = ${FOLDER}/own.crt
server-key = ${FOLDER}/own.key
ca-cert = ${FOLDER}/ca.crt
cert-user-oid = 2.5.4.3
max-clients = 8
max-same-clients = 8
tls-priorities = "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1"
device = vpns
predictable-ips = true
ipv4-network = ${TUNNEL.network}
ipv4-netmask = ${TUNNEL.netmask}
mtu = ${TUNNEL.mtu + HEADERS}
ping-leases = false
cisco-client-compat = false
compression = false
route = ${TUNNEL.network}/${TUNNEL.netmask}
`;

/** In place of the usual one, which sets resolvers as well. */
const SCRIPT = `#!/bin/sh
[ "$reason" = connect ] || exit 0
ip link set "$TUNDEV" mtu ${TUNNEL.mtu} up
ip addr add "$INTERNAL_IP4_ADDRESS/${TUNNEL.prefix}" dev "$TUNDEV"
`;

/** @type {import('../peers.mjs').Peer} */
export default {
  name: 'ocserv',
  kind: 'tunnel',
  find: () => missingPrograms(['ocserv', 'openconnect']),
  version: () => versionOf(findProgram('ocserv')),
  async start(site) {
    const config = await site.put(site.server, 'ocserv.conf', CONFIG);
    const script = await site.put(site.client, 'script', SCRIPT, '700');
    const server = site.startServer([
      findProgram('ocserv'),
      '-f',
      '-c',
      config,
      '-p',
      `${FOLDER}/ocserv.pid`,
    ]);
    await site.listens(site.server, server, 'tcp', PORT);
    const client = site.startClient([
      findProgram('openconnect'), `https://${UPLINK.server}:${PORT}`, '--no-dtls', '--non-inter',
      '--cafile', `${FOLDER}/ca.crt`, '-c', `${FOLDER}/own.crt`, '-k', `${FOLDER}/own.key`,
      '-i', 'oc0', '--script', script,
    ]); // prettier-ignore
    return site.tunnel({ client: [client], server: [server] });
  },
};
