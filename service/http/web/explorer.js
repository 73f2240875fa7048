// The API explorers at /docs (Swagger UI) and /redoc (ReDoc). Both are megabytes, loaded from the one host that
// service/http/routes/pages.py allows; until then the page shows what explorer.html says.

const HOST = "https://cdn.jsdelivr.net";
const DESCRIPTION = "/openapi.json";
const place = document.getElementById("explorer");

const explorers = {
  "/docs": {
    script: `${HOST}/npm/swagger-ui-dist@5/swagger-ui-bundle.js`,
    style: `${HOST}/npm/swagger-ui-dist@5/swagger-ui.css`,
    show: () => window.SwaggerUIBundle({ url: DESCRIPTION, domNode: place, deepLinking: true }),
  },
  "/redoc": {
    script: `${HOST}/npm/redoc@2/bundles/redoc.standalone.js`,
    show: () => window.Redoc.init(DESCRIPTION, {}, place),
  },
};

/** Append an element that loads something; resolves when it is loaded, rejects if that fails. */
function load(tag, properties) {
  return new Promise((resolve, reject) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.addEventListener("load", resolve);
    element.addEventListener("error", () => reject(new Error(properties.src ?? properties.href)));
    document.head.append(element);
  });
}

const { script, style, show } = explorers[location.pathname] ?? explorers["/docs"];
try {
  await Promise.all([load("script", { src: script }), style ? load("link", { rel: "stylesheet", href: style }) : null]);
  document.documentElement.classList.add("is-loaded");
  show();
} catch (error) {
  document.getElementById("state").textContent =
    `The API explorer could not be loaded from ${HOST}: no internet, or the host is blocked.`;
}
