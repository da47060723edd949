// What programs do with the official JavaScript client: objects, watches, informers, logs, exec, attach, port-forward, cp.
//
// Usage: node client.mjs KUBECONFIG; @kubernetes/client-node is found beside it, or through the import below.

import assert from 'node:assert/strict';
import net from 'node:net';
import { PassThrough } from 'node:stream';
import { createRequire } from 'node:module';

// The library lies where NODE_PATH says, which only `require` asks.
const k8s = createRequire(import.meta.url)('@kubernetes/client-node');

const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const core = config.makeApiClient(k8s.CoreV1Api);
const namespace = 'default';

const PATIENCE = 30_000;

function within(what, promise) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`never: ${what}`)), PATIENCE).unref());
  return Promise.race([promise, late]);
}

function collected(stream) {
  const chunks = [];
  stream.on('data', (chunk) => chunks.push(chunk));
  return () => Buffer.concat(chunks).toString();
}

async function objects() {
  const body = { metadata: { name: 'node-map', labels: { from: 'node' } }, data: { colour: 'blue' } };
  const made = await core.createNamespacedConfigMap({ namespace, body });
  made.data.colour = 'green';
  const changed = await core.replaceNamespacedConfigMap({ name: 'node-map', namespace, body: made });
  assert.equal(changed.data.colour, 'green');
  await assert.rejects(core.replaceNamespacedConfigMap({ name: 'node-map', namespace, body: made }), { code: 409 });
  const patched = await core.patchNamespacedConfigMap(
    { name: 'node-map', namespace, body: [{ op: 'add', path: '/data/shape', value: 'round' }] });
  assert.deepEqual(patched.data, { colour: 'green', shape: 'round' });
  const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: 'from=node', limit: 10 });
  assert.deepEqual(listed.items.map((item) => item.metadata.name), ['node-map']);
  const loose = k8s.KubernetesObjectApi.makeApiClient(config);
  const applied = await loose.patch(
    { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'node-map', namespace }, data: { by: 'apply' } },
    undefined, undefined, 'test', true, k8s.PatchStrategy.ServerSideApply);
  assert.equal(applied.data.by, 'apply');
  await core.deleteNamespacedConfigMap({ name: 'node-map', namespace });
  const who = await config.makeApiClient(k8s.AuthenticationV1Api).createSelfSubjectReview({ body: {} });
  assert.ok(who.status.userInfo.groups.includes('system:masters'));
}

/** The pod as soon as it is as it should be, by a watch. */
function watched(name, fits) {
  return within(`${name} by a watch`, new Promise((resolve, reject) => {
    const watch = new k8s.Watch(config);
    const path = `/api/v1/namespaces/${namespace}/pods`;
    let request;
    watch.watch(path, { fieldSelector: `metadata.name=${name}`, allowWatchBookmarks: true }, (type, pod) => {
      if (fits(type, pod)) {
        resolve(pod);
        request?.abort();
      }
    }, (error) => error && error.name !== 'AbortError' && reject(error)).then((handle) => { request = handle; });
  }));
}

/** The pod as an informer, which lists and then watches, tells of it. */
function informed(name) {
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/pods`,
    () => core.listNamespacedPod({ namespace }));
  const found = new Promise((resolve, reject) => {
    informer.on('add', (pod) => pod.metadata.name === name && resolve(pod));
    informer.on('error', reject);
  });
  return within('an informer', informer.start().then(() => found)).finally(() => informer.stop());
}

async function run() {
  const script = 'mkdir /w; echo from the pod > /w/hello; echo started; httpd -p 8080 -h /w; while read l; do echo got $l; done';
  const spec = {
    terminationGracePeriodSeconds: 1,
    containers: [{ name: 'c', image: 'busybox', command: ['sh', '-c', script], stdin: true }],
  };
  const running = watched('js', (_, pod) => pod.status.phase === 'Running');
  await core.createNamespacedPod({ namespace, body: { metadata: { name: 'js' }, spec } });
  await running;
  assert.equal((await informed('js')).metadata.name, 'js');
}

async function exec() {
  const [out, err, stdin] = [new PassThrough(), new PassThrough(), new PassThrough()];
  const [printed, wrong] = [collected(out), collected(err)];
  const status = within('the end of exec', new Promise((resolve, reject) => {
    new k8s.Exec(config).exec(namespace, 'js', 'c', ['sh', '-c', 'read a; echo $a; echo wrong >&2; exit 5'], out, err,
      stdin, false, resolve).catch(reject);
  }));
  stdin.write('typed\n');
  const { details } = await status;
  assert.deepEqual(details.causes, [{ reason: 'ExitCode', message: '5' }]);
  assert.equal(printed(), 'typed\n');
  assert.equal(wrong(), 'wrong\n');
}

async function attach() {
  const [out, stdin] = [new PassThrough(), new PassThrough()];
  const socket = await new k8s.Attach(config).attach(namespace, 'js', 'c', out, null, stdin, false);
  const answer = within('an answer', new Promise((resolve) => out.once('data', resolve)));
  stdin.write('hello\n');
  assert.equal((await answer).toString(), 'got hello\n');
  socket.close();
}

async function forward() {
  const forwarder = new k8s.PortForward(config);
  const server = net.createServer((socket) => forwarder.portForward(namespace, 'js', [8080], socket, null, socket));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const answer = await within('an answer through the forward', new Promise((resolve, reject) => {
    const socket = net.connect(server.address().port, '127.0.0.1');
    const read = collected(socket);
    socket.on('error', reject);
    socket.on('data', () => read().endsWith('from the pod\n') && resolve(read()));
    socket.write('GET /hello HTTP/1.0\r\n\r\n');
  }));
  assert.match(answer, /^HTTP\/1\.[01] 200 OK/);
  server.close();
}

async function logs() {
  assert.equal(await core.readNamespacedPodLog({ name: 'js', namespace, tailLines: 5 }), 'started\ngot hello\n');
  const out = new PassThrough();
  const first = within('a followed log', new Promise((resolve) => out.once('data', resolve)));
  const request = await new k8s.Log(config).log(namespace, 'js', 'c', out, { follow: true, tailLines: 1 });
  assert.equal((await first).toString(), 'got hello\n');
  request.abort();
}

async function end() {
  const gone = watched('js', (type) => type === 'DELETED');
  await core.deleteNamespacedPod({ name: 'js', namespace });
  await gone;
}

for (const step of [objects, run, exec, attach, forward, logs, end]) {
  await step();
}
process.exit(0);
