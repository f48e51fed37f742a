/** socat at both ends, TLS between: no tunnel, but what copying streams through TLS costs. TCP only. */
import { FOLDER, UPLINK } from '../site.mjs';
import { findProgram, missingPrograms, versionOf } from '../programs.mjs';
import { IPERF_PORT } from '../load.mjs';

const PORT = 4433;
const BUFFER = '131072';
const TLS = `cert=${FOLDER}/own.crt,key=${FOLDER}/own.key,cafile=${FOLDER}/ca.crt,verify=1,nodelay`;

/** @type {import('../peers.mjs').Peer} */
export default {
  name: 'tls-relay',
  kind: 'relay',
  find: () => missingPrograms(['socat']),
  version: () => /socat version \S+/.exec(versionOf(findProgram('socat'), '-V', 2))?.[0] ?? 'socat',
  async start(site) {
    const socat = [findProgram('socat'), '-b', BUFFER];
    const server = site.startServer([
      ...socat, `OPENSSL-LISTEN:${PORT},reuseaddr,fork,${TLS}`, `TCP:127.0.0.1:${IPERF_PORT},nodelay`,
    ]); // prettier-ignore
    await site.listens(site.server, server, 'tcp', PORT);
    const client = site.startClient([
      ...socat, `TCP-LISTEN:${IPERF_PORT},reuseaddr,fork,nodelay`,
      `OPENSSL:${UPLINK.server}:${PORT},commonname=server,${TLS}`,
    ]); // prettier-ignore
    await site.listens(site.client, client, 'tcp', IPERF_PORT);
    return site.tunnel({ client: [client], server: [server] }, '127.0.0.1');
  },
};
