// The API explorer at /docs and /redoc: Swagger UI, 1.7 MB, loaded when this page is opened and from this service.

import "./explorer.css";

declare global {
  interface Window {
    SwaggerUIBundle?: (options: { url: string; domNode: Element | null; deepLinking: boolean; validatorUrl: null }) => void;
  }
}

/** Append an element that loads something; resolves when it is loaded, rejects if that fails. */
function load(element: HTMLElement): Promise<unknown> {
  return new Promise((resolve, reject) => {
    element.addEventListener("load", resolve);
    element.addEventListener("error", () => reject(new Error("not loaded")));
    document.head.append(element);
  });
}

const script = Object.assign(document.createElement("script"), { src: "/web/swagger-ui-bundle.js" });
const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/web/swagger-ui.css" });
try {
  await Promise.all([load(script), load(style)]);
  document.documentElement.classList.add("is-loaded");
  const domNode = document.getElementById("explorer");
  window.SwaggerUIBundle?.({ url: "/openapi.json", domNode, deepLinking: true, validatorUrl: null });
} catch {
  const state = document.getElementById("state");
  if (state) state.textContent = "The API explorer could not be loaded: the service does not answer.";
}
