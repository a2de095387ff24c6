// Node's own fetch: it asks for each address and shows what came.
for (const address of process.argv.slice(2)) {
  try {
    const response = await fetch(address, { headers: { authorization: `Bearer ${process.env.API_TOKEN}` } });
    console.log(response.status, await response.text());
  } catch (error) {
    console.log("error:", error.cause?.code ?? error.message);
  }
}
