// Feature files by the code of circuit-tracer's own viewer: OUT ASSETS HUB SCAN LAYER LATENT...
// Its page's libraries are stood in for by Node's: pako by zlib, and what draws does nothing.
import fs from 'node:fs'
import vm from 'node:vm'
import zlib from 'node:zlib'

const [out, assets, hub, scan, layer, ...latents] = process.argv.slice(2)
const still = new Proxy(function(){}, {get: () => still, apply: () => still})
const page = {
  console, URL, URLSearchParams, TextDecoder, Uint8Array, Map, Promise, JSON, Math,
  location: {hostname: 'viewer', search: '', href: 'http://viewer/'},
  document: still, history: still, d3: still, _: still,
  pako: {inflate: bytes => zlib.unzipSync(bytes).toString('utf8')},
  fetch: (url, given) => fetch(url.replace('https://huggingface.co', hub), {...given, cache: undefined}),
}
page.window = page
vm.createContext(page)
for (const name of ['util.js', 'feature_examples/init-feature-examples.js'])
  vm.runInContext(fs.readFileSync(`${assets}/${name}`, 'utf8'), page)
page.initFeatureExamplesLogits = page.initFeatureExamplesList = () => {}
page.util.initRenderAll = () => still

const {loadFeature} = page.initFeatureExamples({containerSel: still})
const found = {}
for (const latent of latents) {
  const [a, b] = [Number(layer), Number(latent)]
  const id = (a + b) * (a + b + 1) / 2 + b
  const {colorScale, ...feature} = await loadFeature(scan, id)
  found[latent] = feature
}
fs.writeFileSync(out, JSON.stringify(found))
