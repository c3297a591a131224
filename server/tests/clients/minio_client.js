// What MinIO's library for JavaScript does with a store. usage: node minio_client.js HOST PORT KEY SECRET
const assert = require("assert");
const crypto = require("crypto");
const { Client } = require("minio");

const [endPoint, port, accessKey, secretKey] = process.argv.slice(2);
const client = new Client({ endPoint, port: Number(port), useSSL: false, accessKey, secretKey });

async function all(stream) {
  const found = [];
  for await (const each of stream) found.push(each);
  return found;
}

(async () => {
  await client.makeBucket("shelf");
  const data = crypto.randomBytes(70 << 20);
  await client.putObject("shelf", "big", data, { "x-amz-meta-a": "b" });
  const stat = await client.statObject("shelf", "big");
  assert.strictEqual(stat.size, data.length);
  assert.strictEqual(stat.metaData.a, "b");
  assert(Buffer.concat(await all(await client.getObject("shelf", "big"))).equals(data));
  await client.copyObject("shelf", "copy", "/shelf/big");
  await client.setObjectTagging("shelf", "copy", { k: "v" });
  assert.deepStrictEqual(await client.getObjectTagging("shelf", "copy"), [{ Key: "k", Value: "v" }]);
  const keys = (await all(client.listObjectsV2("shelf", "", true))).map((found) => found.name);
  assert.deepStrictEqual(keys, ["big", "copy"]);
  const answer = await fetch(await client.presignedGetObject("shelf", "big", 60));
  assert.strictEqual(answer.status, 200);
  await client.removeObjects("shelf", keys);
  await client.removeBucket("shelf");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
